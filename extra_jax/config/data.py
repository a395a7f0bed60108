"""Problems, and what is measured on them."""

import re
from pathlib import PurePosixPath
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from extra_jax.config.section import MAX_ROWS, MAX_STEPS, MAX_TOKENS, Section, Seed, Temperature, Tokens
from extra_jax.errors import ExtraError


class DataConfig(Section):
    source: str = Field(
        "countdown",
        description="`countdown`, `chain`, `reasoning_gym:NAME`, `path/file.py:name` (a function that generates them), "
        "FILE.jsonl, FILE.parquet or `hub:ORG/NAME`.",
    )
    split: str = Field("train", description="Split of a generated task or of a hub data set.")
    limit: int | None = Field(
        None, ge=1, le=10_000_000, description="Use this many problems; generated tasks make this many."
    )
    prompt_template: str | None = Field(None, description="Wraps a text problem; must contain {problem}.")
    system: str | None = Field(None, description="System message in front of a text problem.")
    columns: dict[str, str] = Field(
        default_factory=dict, description="Other column names of a file, e.g. {prompt: question}."
    )
    task: dict[str, Any] = Field(default_factory=dict, description="Difficulty of a generated task.")

    @model_validator(mode="after")
    def _task_is_difficulty(self) -> Self:
        if clash := sorted({"count", "seed", "split", "limit", "size"} & self.task.keys()):
            raise ValueError(f"task.{clash[0]} is no difficulty; it is set elsewhere (run.seed, split, limit)")
        return self


class EvalConfig(Section):
    data: DataConfig | None = Field(None, description="Held-out problems; None turns evaluation off.")
    benchmarks: dict[str, DataConfig] = Field(
        default_factory=dict,
        description="Several sets in place of `data`, by name, e.g. {aime24: {}, mine: {source: mine.jsonl}}. Without "
        "`source` a set is the standard or generated one of its name. Prompts are worded as in `data`, or else as in "
        "training.",
    )
    dir: str = Field("data", description="Folder of the standard sets that `extra-jax data fetch` brought.")
    seed: Seed = Field(
        0,
        description="Of the held-out problems that a task generates or `limit` keeps, and of every token sampled on "
        "them; apart from run.seed, so that runs of several seeds are measured alike.",
    )
    every: int = Field(
        0, ge=0, le=MAX_STEPS, description="Steps between evaluations; 0: only before the first and after the last."
    )
    num_generations: int = Field(8, ge=1, le=MAX_ROWS, description="Samples a problem (n of pass@k).")
    temperature: Temperature = Field(1.0, description="Of the evaluation; 0 is greedy.")
    top_p: float = Field(1.0, gt=0, le=1, description="Keep the likeliest tokens of this total probability; 1 is off.")
    top_k: int = Field(0, ge=0, le=MAX_TOKENS, description="Keep this many of the likeliest tokens; 0 is off.")
    min_p: float = Field(
        0.0, ge=0, lt=1, description="Keep tokens of at least this share of the likeliest one's probability; 0 is off."
    )
    max_completion_length: Tokens | None = Field(None, description="Default: the rollout's.")

    @field_validator("benchmarks", mode="before")
    @classmethod
    def _named_sources(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        if bad := [name for name in raw if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", str(name))]:
            raise ValueError(f"{bad[0]!r} is no name of a benchmark: letters, digits, '.', '_' and '-' are")
        return {
            name: {"source": name, **(own or {})} if isinstance(own, dict | None) else own for name, own in raw.items()
        }


def benchmark_name(source: str) -> str:
    """A name for a source, also of a folder: ``math500`` for ``data/math500.jsonl``, ``org_name`` for ``hub:org/name``.

    Raises:
        ExtraError: nothing of the source can be a name, as of ``...jsonl``.
    """
    hub, path = source.startswith("hub:"), PurePosixPath(source).name.removesuffix(".jsonl").removesuffix(".parquet")
    name = re.sub(r"[^A-Za-z0-9._-]", "_", source.removeprefix("hub:") if hub else path).lstrip("._-")
    if not name:
        raise ExtraError(
            f"{source!r} has no name for a benchmark; give one with eval.benchmarks={{NAME: {{source: ...}}}}"
        )
    return name
