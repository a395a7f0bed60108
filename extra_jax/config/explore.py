"""What a run explores with: names of transforms and prompt policies, with their settings."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from extra_jax.config.section import Section

Arguments = dict[str, Any]

PRESETS: dict[str, dict[str, Any]] = {
    "grpo": {},
    "corrected": {"bonus": {"novelty": {}}, "prompts": {"prefixes": {}}},
    "release_faithful": {
        "encoder": {"long_text": "truncate"},
        "bonus": {
            "novelty": {
                "alpha": 0.1,
                "pool_filter": "all",
                "capacity": "group",
                "min_history": "group",
                "remember_guided": False,
                "centring": "none",
                "scaling": "raw",
                "cap_at": None,
                "cap_ratio": None,
            }
        },
        "prompts": {
            "prefixes": {
                "as_released": True,
                "cut": "as_released",
                "max_truncated": None,
                "warmup_steps": 30,
                "source": "lowest_entropy",
                "min_tokens": 0,
                "max_fraction": None,
                "stop_at": [],
                "memory_max_age": None,
                "queue_max_age": None,
                "budget": "full",
                "max_depth": None,
            }
        },
    },
}
"""What a preset fills in; keys that are written out win. ``release_faithful`` also has an epsilon of 1e-6 in
``train.advantage``."""


_GONE = {
    "novelty": "novelty: {alpha: 0.5} is now bonus: {novelty: {alpha: 0.5}}",
    "prefix": "prefix: {min_tokens: 4} is now prompts: {prefixes: {min_tokens: 4}} (slots_fraction is guided_fraction)",
    "arm": "arm: X is now an element of bonus or prompts, see benchmarks/exploration/lab/arms.py",
    "probe": "the probes are now callbacks, see benchmarks/exploration/lab/probes.py",
    "std_epsilon": "std_epsilon: E is now train.advantage: {function: grpo, args: {epsilon: E}}",
}


class ExploreConfig(Section):
    """``preset: grpo`` without a bonus and a prompt policy explores nothing and costs nothing."""

    preset: Literal["grpo", "corrected", "release_faithful"] = Field(
        "grpo", description="`grpo`: off; `corrected`: recommended; `release_faithful`: as the authors' code."
    )
    encoder: dict[str, Any] = Field(
        default_factory=dict,
        description="What turns completions into vectors: {name: minilm}, see docs/howto/own-bonus.md.",
    )
    bonus: dict[str, Arguments | None] = Field(
        default_factory=dict,
        description="Transforms of advantages in order: name or path/file.py:name, with settings; null takes one out.",
    )
    prompts: dict[str, Arguments | None] = Field(
        default_factory=dict, description="Policies of prompts, likewise; the first draws from the data."
    )

    @property
    def active(self) -> bool:
        """Whether exploration does anything at all."""
        return any(arguments is not None for arguments in (*self.bonus.values(), *self.prompts.values()))

    @model_validator(mode="before")
    @classmethod
    def _fill_in_preset(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping):
            return raw
        for key, now in _GONE.items():
            if key in raw:
                raise ValueError(now)
        merged = dict(raw)
        preset = raw.get("preset")
        for key, below in PRESETS.get(preset, {}).items() if isinstance(preset, str) else ():
            if isinstance(above := merged.get(key) or {}, Mapping):
                merged[key] = _merged(below, above)
        return merged


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` over ``below``, mappings key by key."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if both else value
    return merged
