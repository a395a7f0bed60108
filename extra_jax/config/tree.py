"""The tree itself, and the rules between its sections."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import model_validator

from extra_jax.config.data import DataConfig, EvalConfig, benchmark_name
from extra_jax.config.explore import ExploreConfig
from extra_jax.config.exprl import ExprlConfig
from extra_jax.config.judge import JudgeConfig
from extra_jax.config.plan import PlanConfig
from extra_jax.config.rollout import RewardConfig, RolloutConfig
from extra_jax.config.run import (
    CheckpointConfig,
    DistributedConfig,
    LoggingConfig,
    MeshConfig,
    ModelConfig,
    RunConfig,
    TokenizerConfig,
)
from extra_jax.config.section import Section
from extra_jax.config.train import GRPOConfig, OptimConfig, SFTConfig


class Config(Section):
    """Every setting of a run. The verbs use the sections that concern them."""

    run: RunConfig = RunConfig()
    distributed: DistributedConfig = DistributedConfig()
    model: ModelConfig
    mesh: MeshConfig = MeshConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    data: DataConfig = DataConfig()
    rollout: RolloutConfig = RolloutConfig()
    reward: RewardConfig = RewardConfig()
    optim: OptimConfig = OptimConfig()
    train: GRPOConfig = GRPOConfig()
    judge: JudgeConfig = JudgeConfig()
    exprl: ExprlConfig = ExprlConfig()
    explore: ExploreConfig = ExploreConfig()
    sft: SFTConfig = SFTConfig()
    eval: EvalConfig = EvalConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    logging: LoggingConfig = LoggingConfig()
    plan: PlanConfig = PlanConfig()

    @model_validator(mode="before")
    @classmethod
    def _as_released(cls, raw: Any) -> Any:
        """The release divides by a deviation plus 1e-6, which belongs to its preset of exploration."""
        explore, train = (raw.get(key) if isinstance(raw, Mapping) else None for key in ("explore", "train"))
        if not isinstance(explore, Mapping) or explore.get("preset") != "release_faithful":
            return raw
        released = {"advantage": {"function": "grpo", "args": {"epsilon": 1e-6}}}
        return {**raw, "train": {**released, **train} if isinstance(train, Mapping) else train or released}

    @property
    def max_sequence_length(self) -> int:
        """Tokens of the longest prompt and completion."""
        return self.rollout.max_prompt_length + self.rollout.max_completion_length

    @property
    def packed_row_length(self) -> int:
        """Tokens of a row of completions that the learner packs."""
        return self.train.row_length or self.max_sequence_length

    @property
    def benchmarks(self) -> dict[str, DataConfig]:
        """What is evaluated, by name, with the wording of its prompts; empty where evaluation is off."""
        wording = self.eval.data or self.data
        if self.eval.benchmarks:
            return {
                name: own.model_copy(
                    update={key: getattr(own, key) or getattr(wording, key) for key in ("prompt_template", "system")}
                )
                for name, own in self.eval.benchmarks.items()
            }
        return {benchmark_name(self.eval.data.source): self.eval.data} if self.eval.data else {}

    @model_validator(mode="after")
    def _rows_hold_sequences(self) -> Self:
        if self.train.row_length and self.train.row_length < self.max_sequence_length:
            raise ValueError(
                f"train.row_length={self.train.row_length} is shorter than rollout.max_prompt_length + "
                f"max_completion_length = {self.max_sequence_length}"
            )
        return self

    @model_validator(mode="after")
    def _punishment_starts_within_a_completion(self) -> Self:
        longest = self.rollout.max_completion_length
        for entry in self.reward.functions:
            cache = entry.args.get("cache")
            if entry.function == "overlong" and not (type(cache) is int and 1 <= cache <= longest):
                raise ValueError(
                    f"reward.functions: overlong has args.cache={cache}; give a number of tokens from 1 to "
                    f"rollout.max_completion_length={longest}"
                )
        return self

    @model_validator(mode="after")
    def _exploration_fits(self) -> Self:
        if self.explore.active and self.train.max_num_gen_batches > 1:
            raise ValueError(
                f"train.max_num_gen_batches={self.train.max_num_gen_batches} throws away the groups that exploration "
                "works on; set it to 1 or explore.preset=grpo"
            )
        return self
