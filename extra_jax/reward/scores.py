"""What a step's completions are worth."""

from collections.abc import Mapping, Sequence
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

    def take(self, rows: np.ndarray) -> "Scores":
        """Only these rows, in this order."""
        grades = [self.grades[row] for row in rows]
        parts = {name: part[rows] for name, part in self.parts.items()}
        return Scores(self.rewards[rows], self.valid[rows], self.correct[rows], grades, parts)

    @staticmethod
    def join(scores: Sequence["Scores"]) -> "Scores":
        """One after the other, of the same functions."""
        rewards, valid, correct = (
            np.concatenate([getattr(s, name) for s in scores]) for name in ("rewards", "valid", "correct")
        )
        parts = {name: np.concatenate([s.parts[name] for s in scores]) for name in scores[0].parts}
        return Scores(rewards, valid, correct, [grade for s in scores for grade in s.grades], parts)
