"""What one step of training on scores learns from, and where it comes from."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flax import nnx

from extra_jax.data.loader import ProblemLoader
from extra_jax.exprl.scored import Scored
from extra_jax.rollout.types import Rollouts, StopReason
from extra_jax.telemetry.journal import Journal
from extra_jax.telemetry.timing import PhaseTimer


@dataclass(frozen=True)
class Batch:
    """What one step learns from.

    Attributes:
        scored: All rollouts of the step, of all processes.
        rows: ``[R]`` whole rows of this process, groups adjacent.
        groups: ``[R]``, number of the group of each row, over all processes.
        advantages: For each of ``rows`` ``[n]``, one a token.
        learned: ``[R]`` bool; the others stay out of the loss.
        reward: ``[R]``; NaN where there is none.
        scores: For each of ``rows`` what the judge gave, one a unit.
    """

    scored: Scored
    rows: Sequence[Mapping[str, Any]]
    groups: Sequence[int]
    advantages: Sequence[np.ndarray]
    learned: np.ndarray
    reward: np.ndarray
    scores: Sequence[np.ndarray]
    metrics: Mapping[str, float] = field(default_factory=dict)


class Source(ABC):
    """Where batches come from. All processes call it together.

    Attributes:
        loader: The order of the problems or groups.
    """

    loader: ProblemLoader

    @abstractmethod
    def next(self, params: nnx.State, step: int, timer: PhaseTimer, journal: Journal) -> Batch:
        """The batch of ``step``, for a policy with these parameters (training layout)."""

    def may_save(self, done: int) -> bool:
        """Whether a run can be continued from after ``done`` steps."""
        return True

    def state(self) -> dict[str, Any]:
        """The position, as JSON."""
        return self.loader.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Continues where ``state`` was taken."""
        self.loader.restore(state)

    @property
    def epoch(self) -> float:
        """Passes over the problems so far."""
        return self.loader.epoch

    def close(self) -> None:  # noqa: B027  most sources hold nothing
        """Releases what the source holds."""


def make_batch(scored: Scored, rows: Sequence[Mapping[str, Any]], local: Sequence[int], group_size: int) -> Batch:
    """The batch of a step whose rollouts are ``scored``, groups adjacent.

    Args:
        scored: Of all processes.
        rows: Whole rows of the rollouts ``local``.
        local: Which of the scored rollouts this process has.
    """
    return Batch(
        scored,
        rows,
        [index // group_size for index in local],
        [scored.token_advantages(index) for index in local],
        scored.learned[local],
        scored.reward[local],
        [scored.scores[index] for index in local],
    )


def to_rollouts(rows: Sequence[Mapping[str, Any]], groups: Sequence[int], group_size: int) -> Rollouts:
    """Stored rows as the learner wants them; log-probabilities of the full distribution are not stored.

    Args:
        groups: ``[R]``, number of the group of each row in this step, over all processes.
        group_size: Rollouts of a group, to number them.
    """
    lengths = np.array([len(row["token_ids"]) for row in rows], np.int32)
    shape = (len(rows), int(lengths.max(initial=0)))

    def column(name: str, dtype: type = np.float32) -> np.ndarray:
        padded: np.ndarray = np.zeros(shape, dtype)
        for index, row in enumerate(rows):
            padded[index, : lengths[index]] = row[name]
        return padded

    return Rollouts(
        rollout_ids=np.array([g * group_size + row["sample"] for g, row in zip(groups, rows, strict=True)], np.int64),
        prompt_index=np.asarray(groups, np.int32),
        prompt_ids=[np.asarray(row["prompt_ids"], np.int32) for row in rows],
        tokens=column("token_ids", np.int32),
        lengths=lengths,
        logprobs=column("logprobs"),
        entropies=column("entropies"),
        stop_reasons=[StopReason(row["stop_reason"]) for row in rows],
        prefix_ids=[np.zeros(0, np.int32)] * len(rows),
        full_logprobs=np.full(shape, np.nan, np.float32),
        filter_logprob_mass=column("log_kept"),
    )
