"""Which grader a run uses, and what its verdicts are worth."""

from collections.abc import Sequence

import numpy as np

from extra_jax.config import DataConfig, RewardConfig
from extra_jax.reward.verdict import Grade, Grader

_TASKS = ("countdown", "chain")


def make_grader(config: RewardConfig, data: DataConfig) -> Grader:
    """The grader that the configuration names; ``auto`` is the task's own, and ``math`` for everything else."""
    name = config.grader
    if name == "auto":
        name = data.source if data.source in _TASKS else "math"
    if name == "countdown":
        from extra_jax.reward.countdown import CountdownGrader

        return CountdownGrader()
    if name == "chain":
        from extra_jax.reward.chain import ChainGrader

        return ChainGrader()
    from extra_jax.reward.workers import MathGrader

    return MathGrader()


def rewards_of(grades: Sequence[Grade], config: RewardConfig) -> tuple[np.ndarray, np.ndarray]:
    """Rewards ``[R]`` f64, and ``[R]`` bool: 1 marks a verdict that says something about the policy."""
    rewards = np.array([config.values[grade.verdict] for grade in grades], np.float64)
    return rewards, np.array([grade.verdict not in config.exclude for grade in grades], bool)
