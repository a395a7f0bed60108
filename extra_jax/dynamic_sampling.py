"""Groups of graded completions, and which of them a step learns from.

A group whose completions are all correct or all wrong has advantages of zero: it teaches nothing. Dynamic sampling
(DAPO) generates further problems until enough groups are mixed or a budget is spent. What counts is the binary
outcome, never the shaped reward: a bonus must not turn a group without a solution into a signal.
"""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from extra_jax.explore.injection import Slot
from extra_jax.parallel.processes import allgather_rows
from extra_jax.reward.scores import Scores
from extra_jax.rollout.types import Rollouts


class Graded(NamedTuple):
    """Completions of some slots, on this process; groups are adjacent and in the order of ``slots``.

    Attributes:
        slots: one per request; ``rollouts.prompt_index`` points into it.
        rollouts: ``R`` completions.
        texts: ``[R]``.
        scores: of the ``R`` completions.
    """

    slots: list[Slot]
    rollouts: Rollouts
    texts: list[str]
    scores: Scores


class GroupPool:
    """Collects the groups of one step. All processes call everything together and with the same numbers.

    Args:
        wanted: groups that the step learns from, all processes together.
        budget: problems that may be generated; ``wanted`` turns refilling off.
        group_size: completions a problem.
    """

    def __init__(self, wanted: int, budget: int, group_size: int):
        self.wanted, self.budget, self.group_size = wanted, budget, group_size
        self.generated = 0
        self._parts: list[Graded] = []
        self._groups = np.zeros((0, 2), np.int64)  # of all processes: number in the step, whether it is mixed

    def more(self) -> int:
        """How many problems to generate next; 0 when there is enough or nothing left of the budget.

        As many as are missing, over the share of mixed groups so far.
        """
        if not self.generated:
            return self.wanted
        mixed = int(self._groups[:, 1].sum())
        missing = max(self.wanted - mixed, 0)
        return min(-(-missing * self.generated // max(mixed, 1)), self.budget - self.generated)

    def add(self, part: Graded, count: int) -> None:
        """Adds this process's share of ``count`` problems; rollout ids count through the whole step."""
        self.generated += count
        self._parts.append(part)
        numbers = part.rollouts.rollout_ids[:: self.group_size] // self.group_size
        groups = np.stack([numbers, self._mixed(part.scores)], axis=1)
        self._groups = np.concatenate([self._groups, allgather_rows(groups)])

    def chosen(self) -> Graded:
        """This process's part of the ``wanted`` groups: the first that are mixed, then the first of the others."""
        numbers, mixed = self._groups.T
        order = np.lexsort((numbers, -mixed))[: self.wanted]
        return _select(_join(self._parts), set(numbers[order].tolist()), self.group_size)

    def metrics(self) -> dict[str, float]:
        """What was generated, also what was not learned from; empty where refilling is off."""
        if self.budget == self.wanted:
            return {}
        tokens = sum(part.rollouts.lengths.sum() + sum(map(len, part.rollouts.prompt_ids)) for part in self._parts)
        return {
            "dynamic_sampling/generated_prompts": float(self.generated),
            "dynamic_sampling/frac_mixed": float(self._groups[:, 1].mean()),
            "num_tokens": float(allgather_rows(np.array([tokens])).sum()),
        }

    def _mixed(self, scores: Scores) -> np.ndarray:
        """``[groups]`` bool; 1 where some completion is correct and some is not."""
        correct, counted = (rows.reshape(-1, self.group_size) for rows in (scores.correct, scores.valid))
        return (correct & counted).any(axis=1) & (~correct & counted).any(axis=1)


def _join(parts: Sequence[Graded]) -> Graded:
    """One after the other."""
    slots, texts = (list(chain.from_iterable(getattr(part, name) for part in parts)) for name in ("slots", "texts"))
    rollouts, scores = Rollouts.join([part.rollouts for part in parts]), Scores.join([part.scores for part in parts])
    return Graded(slots, rollouts, texts, scores)


def _select(graded: Graded, numbers: set[int], group_size: int) -> Graded:
    """Only the groups with these numbers."""
    rows = np.flatnonzero(np.isin(graded.rollouts.rollout_ids // group_size, list(numbers)))
    return Graded(
        [graded.slots[i] for i in dict.fromkeys(graded.rollouts.prompt_index[rows].tolist())],
        graded.rollouts.take(rows),
        [graded.texts[row] for row in rows],
        graded.scores.take(rows),
    )
