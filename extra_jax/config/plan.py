"""What ``extra-jax plan`` holds a run against."""

from typing import Any

from pydantic import Field, model_validator

from extra_jax.config.section import Section, Tokens


class PlanConfig(Section):
    hbm_fraction: float = Field(0.95, gt=0, le=1, description="Share of a chip's memory that the run may use.")
    mean_prompt_length: Tokens | None = Field(
        None, description="Tokens, for the estimate of time; default: half of rollout.max_prompt_length."
    )
    mean_completion_length: Tokens | None = Field(
        None, description="Tokens, for the estimate of time; default: half of rollout.max_completion_length."
    )

    @model_validator(mode="before")
    @classmethod
    def _without_a_budget(cls, raw: Any) -> Any:
        """Every run of before wrote ``max_step_seconds: null`` into its config.yaml, which asked for nothing."""
        if not isinstance(raw, dict) or "max_step_seconds" not in raw:
            return raw
        if raw["max_step_seconds"] is not None:
            raise ValueError("max_step_seconds is gone, because the seconds of a plan are a lower bound; remove it")
        return {key: value for key, value in raw.items() if key != "max_step_seconds"}
