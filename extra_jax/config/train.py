"""Optimizer, GRPO and SFT."""

from typing import Literal, Self

from pydantic import Field, model_validator

from extra_jax.config.section import Section


class OptimConfig(Section):
    learning_rate: float = Field(1e-6, gt=0)
    lr_scheduler_type: Literal["constant", "cosine"] = Field("constant", description="After the warm-up.")
    warmup_steps: int = Field(0, ge=0, description="Optimizer updates of linear warm-up from 0.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled (AdamW); matrices only.")
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float = Field(1.0, gt=0)


class GRPOConfig(Section):
    max_steps: int = Field(100, ge=1, description="Rollout-and-update steps of the whole run.")
    prompts_per_step: int = Field(64, ge=1)
    num_generations: int = Field(8, ge=2, description="Group size G.")
    num_minibatches: int = Field(1, ge=1, description="Optimizer updates per pass over the step's completions.")
    num_iterations: int = Field(1, ge=1, description="Passes over the step's completions (mu).")
    row_length: int | None = Field(
        None, ge=1, description="Tokens of a packed row; default: the longest prompt and completion."
    )
    micro_batch_rows: int = Field(1, ge=1, description="Packed rows per forward/backward on a data-parallel shard.")
    loss_type: Literal["grpo", "dr_grpo", "dapo", "bnpo"] = "dapo"
    scale_rewards: Literal["group", "batch", "none"] = "group"
    epsilon: float = Field(0.2, gt=0)
    epsilon_high: float | None = Field(0.28, gt=0, description="None: the same as epsilon.")
    old_logprobs: Literal["learner", "sampler"] = Field(
        "learner",
        description="What the ratio compares with: the learner's score before the first update, or the sampler's.",
    )
    delta: float | None = Field(None, gt=1, description="Upper cap of the ratio where the advantage is negative.")
    beta: float = Field(0.0, ge=0, description="KL coefficient; the reference model exists only when it is > 0.")
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    mask_truncated_completions: bool = False

    @property
    def completions_per_step(self) -> int:
        return self.prompts_per_step * self.num_generations

    @property
    def minibatch_size(self) -> int:
        """Completions per optimizer update."""
        return self.completions_per_step // self.num_minibatches

    @property
    def updates_per_step(self) -> int:
        return self.num_minibatches * self.num_iterations

    @model_validator(mode="after")
    def _batches_divide(self) -> Self:
        if self.prompts_per_step % self.num_minibatches:
            raise ValueError(
                f"prompts_per_step={self.prompts_per_step} does not divide into num_minibatches={self.num_minibatches}"
            )
        return self


class SFTConfig(Section):
    max_steps: int = Field(100, ge=1)
    batch_size: int = Field(64, ge=1, description="Examples per optimizer update.")
    row_length: int = Field(1024, ge=2, description="Tokens of a packed row; a longer example is refused.")
    micro_batch_rows: int = Field(1, ge=1, description="Packed rows per forward/backward on a data-parallel shard.")
