"""What was written for each problem before: the memory of novelty, and how it is saved.

At most ``capacity`` vectors a problem: 16 of 384 numbers are 25 kB, 0.42 GB for 17,000 problems.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from extra_jax.explore.packing import pack_texts, split, unpack_texts


@dataclass(frozen=True, eq=False)
class Written:
    """The completions of one problem that are remembered, oldest first."""

    vectors: np.ndarray  # [m, E] f32 of length 1
    correct: np.ndarray  # [m] bool
    origins: np.ndarray  # [m, 2] int64, step and rollout id

    def last(self, capacity: int) -> "Written":
        """Only the newest ``capacity``."""
        return Written(*(column[-capacity:] for column in vars(self).values()))

    def followed_by(self, later: "Written", capacity: int) -> "Written":
        """With later completions behind them, without the oldest beyond ``capacity``."""
        pairs = zip(vars(self).values(), vars(later).values(), strict=True)
        return Written(*(np.concatenate(pair)[-capacity:] for pair in pairs))


@dataclass(frozen=True, eq=False)
class History:
    """By uid of the problem. It is never changed: a step makes a new one that shares what stayed the same."""

    problems: dict[str, Written] = field(default_factory=dict)

    def size(self, uid: str) -> int:
        """Completions remembered of a problem."""
        return len(self.problems[uid].correct) if uid in self.problems else 0

    def nbytes(self) -> int:
        return sum(written.vectors.nbytes for written in self.problems.values())

    def save(self) -> dict[str, Any]:
        """As a few arrays, however many problems there are."""
        written = list(self.problems.values())
        if not written:
            return {}
        return {
            "uids": pack_texts(list(self.problems)),
            "sizes": np.array([len(w.correct) for w in written], np.int64),
            "vectors": np.concatenate([w.vectors for w in written]),
            "correct": np.concatenate([w.correct for w in written]),
            "origins": np.concatenate([w.origins for w in written]),
        }

    @classmethod
    def load(cls, tree: dict[str, Any]) -> "History":
        """What ``save`` gave."""
        if not tree:
            return cls()
        columns = [split(np.asarray(tree[name]), tree["sizes"]) for name in ("vectors", "correct", "origins")]
        rows = zip(unpack_texts(tree["uids"]), *columns, strict=True)
        return cls({uid: Written(v, np.asarray(c, bool), o) for uid, v, c, o in rows})
