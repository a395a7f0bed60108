"""Groups of graded completions, and which of them a step learns from.

A group whose completions are all correct or all wrong has advantages of zero: it teaches nothing. Dynamic sampling
(DAPO) generates further problems until enough groups are mixed or a budget is spent. What counts is the binary
outcome, never the shaped reward: a bonus must not turn a group without a solution into a signal.
"""

from collections.abc import Sequence

import numpy as np
from flax import nnx

from extra_jax import columns
from extra_jax.config import GRPOConfig
from extra_jax.parallel.processes import allgather_rows
from extra_jax.reward.scores import Scores, mixed_groups
from extra_jax.rollout.types import Rollouts
from extra_jax.stages import Draw, Sample, Sampled


def with_dynamic_sampling(draw: Draw, config: GRPOConfig) -> Sample:
    """Samples a step: draws prompts until the step has ``prompts_per_step`` mixed groups or its budget is spent.

    Without a budget (``max_num_gen_batches=1``) that is one draw, of which everything is learned from.
    """

    def sample(weights: nnx.State, step: int) -> Sampled:
        pool = GroupPool(config.prompts_per_step, config.prompts_budget, config.num_generations)
        while count := pool.more():
            pool.add(draw(weights, step, pool.generated, count), count)
        return pool.chosen()

    return sample


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
        self._parts: list[Sampled] = []
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

    def add(self, part: Sampled, count: int) -> None:
        """Adds this process's share of ``count`` problems; rollout ids count through the whole step."""
        self.generated += count
        self._parts.append(part)
        numbers = part.rollouts.rollout_ids[:: self.group_size] // self.group_size
        groups = np.stack([numbers, mixed_groups(part.scores, self.group_size)], axis=1)
        self._groups = np.concatenate([self._groups, allgather_rows(groups)])

    def chosen(self) -> Sampled:
        """This process's part of the ``wanted`` groups: the first that are mixed, then the first of the others."""
        numbers, mixed = self._groups.T
        order = np.lexsort((numbers, -mixed))[: self.wanted]
        return self._select(_join(self._parts), set(numbers[order].tolist()))

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

    def _select(self, sampled: Sampled, numbers: set[int]) -> Sampled:
        """Only the groups with these numbers."""
        rollouts = sampled.rollouts
        rows = np.flatnonzero(np.isin(rollouts.rollout_ids // self.group_size, list(numbers)))
        chosen = allgather_rows(rollouts.rollout_ids[rows][:: self.group_size] // self.group_size)
        return Sampled(
            [sampled.requests[number] for number in chosen],
            [sampled.prompts[i] for i in dict.fromkeys(rollouts.prompt_index[rows].tolist())],
            rollouts.take(rows),
            columns.take(sampled.texts, rows),
            Scores(**columns.take(vars(sampled.scores), rows)),
            self.metrics(),
        )


def _join(parts: Sequence[Sampled]) -> Sampled:
    """One after the other."""
    return Sampled(
        requests=columns.join([part.requests for part in parts]),
        prompts=columns.join([part.prompts for part in parts]),
        rollouts=Rollouts.join([part.rollouts for part in parts]),
        texts=columns.join([part.texts for part in parts]),
        scores=Scores(**columns.join([vars(part.scores) for part in parts])),
    )
