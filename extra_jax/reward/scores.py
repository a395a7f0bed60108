"""What a step's completions are worth."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from extra_jax.reward.verdict import Grade


@dataclass(frozen=True)
class Scores:
    """Of the ``R`` completions of this process.

    Attributes:
        rewards: ``[R]`` f64, weighted sum over the reward functions.
        valid: ``[R]`` bool; 1 where the reward says something about the policy. The others stay out of baselines.
        correct: ``[R]`` bool, the binary outcome that exploration, dynamic sampling and pass@k look at.
        grades: ``[R]`` verdict of the function that says ``correct``, and what it took as the answer.
        parts: name of a reward function -> ``[R]`` f64 of what it returned, NaN where it said nothing.
    """

    rewards: np.ndarray
    valid: np.ndarray
    correct: np.ndarray
    grades: list[Grade]
    parts: Mapping[str, np.ndarray] = field(default_factory=dict)


def mixed_groups(scores: Scores, group_size: int) -> np.ndarray:
    """``[groups]`` bool; 1 where some completion is correct and some is not."""
    correct, valid = (column.reshape(-1, group_size) for column in (scores.correct, scores.valid))
    return (correct & valid).any(axis=1) & (~correct & valid).any(axis=1)
