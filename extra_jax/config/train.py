"""Optimizer, GRPO and SFT."""

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from extra_jax.config.section import MAX_STEPS, MAX_TOKENS, Rows, Section, Steps, Tokens

MAX_COMPLETIONS = 2**20  # of a step

SamplerCorrection = Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]


class OptimConfig(Section):
    learning_rate: float = Field(1e-6, gt=0, le=1, description="Of AdamW, after the warm-up.")
    lr_scheduler_type: Literal["constant", "cosine"] = Field("constant", description="After the warm-up.")
    warmup_steps: int = Field(0, ge=0, le=MAX_STEPS, description="Optimizer updates of linear warm-up from 0.")
    weight_decay: float = Field(0.0, ge=0, le=100, description="Decoupled (AdamW); matrices only.")
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="Decay of the mean of the gradients.")
    adam_beta2: float = Field(0.999, ge=0, lt=1, description="Decay of the mean of their squares.")
    adam_epsilon: float = Field(1e-8, gt=0, le=1, description="Added to the root of that mean.")
    max_grad_norm: float = Field(1.0, gt=0, le=1e9, description="A gradient of a larger global norm is scaled down.")


class AdvantageConfig(Section):
    """From rewards to advantages; ``train.advantage: NAME`` alone says ``function``."""

    function: str = Field(
        "grpo",
        description="grpo, dr_grpo, rloo, maxrl, pass_at_k, w_reinforce, unlikeliness, ucpo or path/file.py:name.",
    )
    args: dict[str, Any] = Field(default_factory=dict, description="Settings of the function, e.g. {k: 8}.")

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, raw: Any) -> Any:
        return {"function": raw} if isinstance(raw, str) else raw


class GRPOConfig(Section):
    max_steps: Steps = Field(100, description="Rollout-and-update steps of the whole run.")
    prompts_per_step: Rows = Field(64, description="Problems of a step, each with num_generations completions.")
    num_generations: int = Field(8, ge=2, le=4096, description="Group size G.")
    num_minibatches: Rows = Field(1, description="Optimizer updates per pass over the step's completions.")
    num_iterations: int = Field(1, ge=1, le=1000, description="Passes over the step's completions (mu).")
    row_length: Tokens | None = Field(
        None,
        description="Tokens of a packed row; default: the longest prompt and completion. Completions of a row share "
        "their prompt, so longer rows have less to compute, up to 8,192 tokens.",
    )
    micro_batch_rows: Rows = Field(1, description="Packed rows per forward/backward on a data-parallel shard.")
    max_num_gen_batches: int = Field(
        1,
        ge=1,
        le=1000,
        description="Dynamic sampling: groups that are all correct or all wrong are replaced by those of further "
        "problems, until prompts_per_step mixed ones are there or this many times prompts_per_step were generated. "
        "1 is off.",
    )
    loss_type: Literal["grpo", "dr_grpo", "dapo", "bnpo", "cispo"] = Field(
        "dapo", description="How the tokens of a step are weighted and clipped; see docs/methods/grpo.md."
    )
    importance_sampling_level: Literal["token", "sequence"] = Field(
        "token", description="`sequence` is GSPO: one ratio a sequence, the geometric mean of its tokens."
    )
    advantage: AdvantageConfig = AdvantageConfig()
    scale_rewards: Literal["group", "batch", "none"] = Field(
        "group", description="What advantage=grpo divides by: the deviation of the group, of the step, or nothing."
    )
    epsilon: float = Field(0.2, gt=0, le=1000, description="The ratio is clipped below 1 - epsilon.")
    epsilon_high: float | None = Field(
        0.28,
        gt=0,
        le=1000,
        description="The ratio is clipped above 1 + epsilon_high; null is epsilon. With loss_type=cispo the cap of the "
        "ratio itself (5.0).",
    )
    old_logprobs: Literal["learner", "sampler"] = Field(
        "learner",
        description="What the ratio compares with: the learner's score before the first update, or the sampler's.",
    )
    delta: float | None = Field(
        None, gt=1, le=1e6, description="Upper cap of the ratio where the advantage is negative."
    )
    beta: float = Field(
        0.0, ge=0, le=1000, description="KL coefficient; the reference model exists only when it is > 0."
    )
    kl_estimator: Literal["k1", "k2", "k3"] = Field(
        "k3", description="Estimator of the KL divergence (Schulman, 2020); k3 is never negative."
    )
    use_bias_correction_kl: bool = Field(
        True,
        description="Multiply the KL term by the ratio of policy and old policy, so that its gradient is that of the "
        "KL divergence, without bias (DeepSeek-V3.2; TRL's default).",
    )
    entropy_coef: float = Field(0.0, ge=0, le=1000, description="Weight of the mean token entropy as a bonus.")
    top_entropy_quantile: float = Field(
        1.0, gt=0, le=1, description="Share of tokens, those of highest entropy, that the policy gradient acts on."
    )
    importance_sampling_correction: SamplerCorrection | None = Field(
        None,
        description="Multiply the policy loss by the ratio learner / sampler, of tokens or of whole sequences, either "
        "clipped to the bounds importance_sampling_clip_* or 0 outside them. None is off.",
    )
    importance_sampling_clip_max: float | None = Field(3.0, gt=0, le=1e6, description="Upper bound of that ratio.")
    importance_sampling_clip_min: float | None = Field(None, gt=0, le=1e6, description="Lower bound of that ratio.")
    mask_truncated_completions: bool = Field(
        False, description="Leave completions that hit max_completion_length out of the loss."
    )
    dump_steps: tuple[Steps, ...] = Field(
        (),
        description="Steps (from 1) of which everything is written to run.dir/replay/ for `extra-jax replay`.",
    )

    @field_validator("scale_rewards", mode="before")
    @classmethod
    def _as_in_trl(cls, raw: Any) -> Any:
        return {True: "group", False: "none"}[raw] if isinstance(raw, bool) else raw

    @field_validator("loss_type", mode="before")
    @classmethod
    def _gspo_is_a_level(cls, raw: Any) -> Any:
        if raw == "gspo":
            raise ValueError("gspo is importance_sampling_level=sequence here, with any loss_type")
        return raw

    @property
    def completions_per_step(self) -> int:
        return self.prompts_per_step * self.num_generations

    @property
    def prompts_budget(self) -> int:
        """Problems that a step may generate completions for."""
        return self.max_num_gen_batches * self.prompts_per_step

    @property
    def minibatch_size(self) -> int:
        """Completions per optimizer update."""
        return self.completions_per_step // self.num_minibatches

    @property
    def uses_entropy(self) -> bool:
        """Whether the loss looks at the entropy of tokens."""
        return self.entropy_coef > 0 or self.top_entropy_quantile < 1

    @property
    def updates_per_step(self) -> int:
        return self.num_minibatches * self.num_iterations

    @model_validator(mode="after")
    def _cispo_caps_the_ratio(self) -> Self:
        if self.loss_type == "cispo" and (self.epsilon_high is None or self.epsilon_high <= 1):
            raise ValueError(
                f"epsilon_high={self.epsilon_high} with loss_type=cispo caps the ratio itself below 1; "
                "use epsilon_high=5"
            )
        if self.loss_type == "cispo" and self.delta is not None:
            raise ValueError("delta has no effect with loss_type=cispo; remove it")
        return self

    @model_validator(mode="after")
    def _batches_divide(self) -> Self:
        if self.prompts_per_step % self.num_minibatches:
            raise ValueError(
                f"prompts_per_step={self.prompts_per_step} does not divide into num_minibatches={self.num_minibatches}"
            )
        if (most := self.prompts_budget * self.num_generations) > MAX_COMPLETIONS:
            raise ValueError(
                f"prompts_per_step x num_generations x max_num_gen_batches = {most:,} completions in a step; "
                f"{MAX_COMPLETIONS:,} is the most that is kept in memory"
            )
        return self


class SFTConfig(Section):
    max_steps: Steps = Field(100, description="Optimizer updates of the whole run.")
    batch_size: Rows = Field(64, description="Examples per optimizer update.")
    row_length: int = Field(
        1024, ge=2, le=MAX_TOKENS, description="Tokens of a packed row; a longer example is refused."
    )
    micro_batch_rows: Rows = Field(1, description="Packed rows per forward/backward on a data-parallel shard.")
