"""How completions are drawn and what they are worth."""

from typing import Any, Literal

from pydantic import Field, model_validator

from extra_jax.answers.verdict import Verdict
from extra_jax.config.section import DType, Section


class RolloutConfig(Section):
    temperature: float = Field(1.0, ge=0.0, description="0 is greedy.")
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    top_k: int = Field(0, ge=0, description="0 is off.")
    min_p: float = Field(0.0, ge=0.0, lt=1.0)
    max_prompt_length: int = Field(512, ge=1, description="Tokens; a longer prompt is refused, never truncated.")
    max_completion_length: int = Field(1024, ge=1, description="Tokens, the stop token included.")
    dtype: DType = Field("bfloat16", description="Weights and cache of the sampler.")
    stop_strings: tuple[str, ...] = Field((), description="A completion ends with the token that completes one.")
    slots: int | None = Field(
        None, ge=1, description="Completions that decode side by side, all devices together; default: as memory allows."
    )
    chunk: int | None = Field(
        None, ge=1, description="Tokens between two looks of the scheduler; default: fewer for shorter completions."
    )


class RewardConfig(Section):
    grader: Literal["auto", "countdown", "chain", "math", "math_strict_thinking", "dapo", "math_verify"] = Field(
        "auto",
        description="`auto` is the grader of a generated task, and `math` for everything else. "
        "`math_strict_thinking` counts an unclosed <think> as no answer; `dapo` and `math_verify` are for comparison.",
    )
    source: Literal["verifier", "judge"] = Field(
        "verifier",
        description="`judge`: train on the scores stored in exprl.store. `reward: judge` alone says the same.",
    )
    values: dict[Verdict, float] = Field(
        default_factory=lambda: {v: float(v is Verdict.CORRECT) for v in Verdict},
        description="Reward of each verdict; verdicts not named keep their default.",
    )
    exclude: tuple[Verdict, ...] = Field(
        (Verdict.GOLD_UNPARSEABLE, Verdict.TIMEOUT, Verdict.ERROR),
        description="Verdicts that say nothing about the policy: out of the group baseline, advantage 0.",
    )

    soft_punish_cache: int = Field(
        0,
        ge=0,
        description="Overlong shaping (DAPO): the reward falls linearly, by at most 1, over so many last tokens before "
        "rollout.max_completion_length. 0 is off.",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_values(cls, raw: Any) -> Any:
        if raw == "judge":
            return {"source": "judge"}
        if isinstance(raw, dict) and isinstance(raw.get("values"), dict):
            default = {v.value: float(v is Verdict.CORRECT) for v in Verdict}
            given = {str(getattr(k, "value", k)): value for k, value in raw["values"].items()}
            raw = {**raw, "values": default | given}
        return raw
