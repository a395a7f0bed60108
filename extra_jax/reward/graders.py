"""Which grader a run uses, and what its verdicts are worth."""

from collections.abc import Callable, Sequence

import numpy as np

from extra_jax.config import DataConfig, RewardConfig
from extra_jax.reward.chain import ChainGrader
from extra_jax.reward.comparable import DapoGrader, MathVerifyGrader
from extra_jax.reward.countdown import CountdownGrader
from extra_jax.reward.math import Options
from extra_jax.reward.verdict import Grade, Grader
from extra_jax.reward.workers import MathGrader

_TASKS = {"countdown": CountdownGrader, "chain": ChainGrader}
_GRADERS: dict[str, Callable[[], Grader]] = {
    **_TASKS,
    "math": MathGrader,
    "math_strict_thinking": lambda: MathGrader(options=Options(strict_thinking=True)),
    "dapo": lambda: DapoGrader(strict_box=True),
    "math_verify": MathVerifyGrader,
}


def grader_name(config: RewardConfig, data: DataConfig) -> str:
    """The grader that the configuration names; ``auto`` is the task's own, and ``math`` for everything else."""
    if config.grader == "auto":
        return data.source if data.source in _TASKS else "math"
    return config.grader


def make_grader(config: RewardConfig, data: DataConfig) -> Grader:
    """The grader of ``grader_name``, ready for use; close it."""
    return _GRADERS[grader_name(config, data)]()


def rewards_of(grades: Sequence[Grade], config: RewardConfig) -> tuple[np.ndarray, np.ndarray]:
    """Rewards ``[R]`` f64, and ``[R]`` bool: 1 marks a verdict that says something about the policy."""
    rewards = np.array([config.values[grade.verdict] for grade in grades], np.float64)
    return rewards, np.array([grade.verdict not in config.exclude for grade in grades], bool)
