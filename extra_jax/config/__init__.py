"""The whole configuration: one typed, frozen tree.

Nothing else in the package reads YAML or the environment. A configuration is a YAML file plus
``key.sub=value`` overrides; unknown keys are errors that name the nearest key. Field names are TRL's
``GRPOConfig`` names where the concept exists there.
"""

from extra_jax.config.continuing import may_change
from extra_jax.config.data import DataConfig, EvalConfig, benchmark_name
from extra_jax.config.explore import ExploreConfig
from extra_jax.config.exprl import ExprlConfig, SegmentConfig
from extra_jax.config.judge import JudgeConfig
from extra_jax.config.loading import (
    config_differences,
    config_from_dict,
    flatten,
    load_config,
    save_config,
    section_from_overrides,
)
from extra_jax.config.rollout import CorrectConfig, RewardConfig, RewardFunction, RolloutConfig
from extra_jax.config.run import (
    CheckpointConfig,
    DistributedConfig,
    LoggingConfig,
    MeshConfig,
    ModelConfig,
    RematPolicy,
    RunConfig,
    TokenizerConfig,
)
from extra_jax.config.section import DType
from extra_jax.config.train import AdvantageConfig, GRPOConfig, OptimConfig, SFTConfig
from extra_jax.config.tree import Config

__all__ = [
    "AdvantageConfig",
    "CheckpointConfig",
    "Config",
    "CorrectConfig",
    "DType",
    "DataConfig",
    "DistributedConfig",
    "EvalConfig",
    "ExploreConfig",
    "ExprlConfig",
    "GRPOConfig",
    "JudgeConfig",
    "LoggingConfig",
    "MeshConfig",
    "ModelConfig",
    "OptimConfig",
    "RematPolicy",
    "RewardConfig",
    "RewardFunction",
    "RolloutConfig",
    "RunConfig",
    "SFTConfig",
    "SegmentConfig",
    "TokenizerConfig",
    "benchmark_name",
    "config_differences",
    "config_from_dict",
    "flatten",
    "load_config",
    "may_change",
    "save_config",
    "section_from_overrides",
]
