"""What ``extra-jax plan`` holds a run against."""

from pydantic import Field

from extra_jax.config.section import Section, Tokens


class PlanConfig(Section):
    hbm_fraction: float = Field(0.95, gt=0, le=1, description="Share of a chip's memory that the run may use.")
    mean_prompt_length: Tokens | None = Field(
        None, description="Tokens, for the estimate of time; default: half of rollout.max_prompt_length."
    )
    mean_completion_length: Tokens | None = Field(
        None, description="Tokens, for the estimate of time; default: half of rollout.max_completion_length."
    )
