"""Rollouts of a store by group, and batches from one that is complete: an index in memory, tokens from the disk."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from flax import nnx

from extra_jax.data.loader import ProblemLoader
from extra_jax.data.problem import Problem
from extra_jax.errors import ExtraError
from extra_jax.exprl.batch import Batch, Source, make_batch
from extra_jax.exprl.collect import sampling_facts, store_folder
from extra_jax.exprl.scored import find_judge, score
from extra_jax.judge import store
from extra_jax.model.fingerprint import fingerprint
from extra_jax.parallel.processes import filled_share
from extra_jax.runtime import Runtime
from extra_jax.telemetry.journal import Journal
from extra_jax.telemetry.timing import PhaseTimer

INDEX = ("rollout_id", "group", "uid", "sample", "policy", "text_sha", "segment_tokens", "stop_reason", "verdict")
"""What is read of every rollout: enough to join it with its scores and to compute its advantage."""

_PROBLEM = ("group", "uid", "problem", "answer", "source")


class StoredGroups:
    """The groups of some parts of rollouts. A group that stands in two parts is taken once: both are the same.

    Args:
        group_size: Rollouts that every group must have.
        prefix: Only the parts whose names begin with this.

    Attributes:
        groups: Group -> its rows with the columns ``INDEX``, in a fixed order.

    Raises:
        ExtraError: no rollouts, or a group of another size.
    """

    def __init__(self, folder: epath.Path, group_size: int, prefix: str = ""):
        self.groups: dict[str, list[dict[str, Any]]] = {}
        self._places: dict[str, tuple[store.Part, int]] = {}
        for part in store.rollout_parts(folder, prefix):
            for number, rows in enumerate(part.by_group(INDEX)):
                group = rows[0]["group"]
                if len(rows) != group_size:
                    raise ExtraError(
                        f"{part.path}: {len(rows)} rollouts of {group}, but train.num_generations={group_size}; set "
                        "it to what the rollouts were sampled with"
                    )
                if group not in self.groups:
                    self.groups[group], self._places[group] = rows, (part, number)

    def problems(self) -> list[Problem]:
        """One problem a group, whose uid is the group; without its reference, which training must not see."""
        by_group = {}
        for part in dict.fromkeys(part for part, _ in self._places.values()):
            for row in part.read(_PROBLEM):
                by_group[row["group"]] = Problem(row["group"], row["problem"], row["answer"], source=row["source"])
        return [by_group[group] for group in self.groups]

    def read(self, groups: Sequence[str]) -> list[Mapping[str, Any]]:
        """The whole rows of some groups, in their order."""
        rows: list[Mapping[str, Any]] = []
        for group in groups:
            part, number = self._places[group]
            rows += part.read(groups=[number])
        return rows


class StoreSource(Source):
    """Groups of stored rollouts as a data set; every epoch is a fresh permutation.

    Args:
        params: what training starts from; rollouts by another policy are stale.

    Raises:
        ExtraError: the store does not fit the configuration, or its scores do not.
    """

    def __init__(self, policy: Runtime, params: nnx.State):
        config = self.config = policy.config
        folder = store_folder(config)
        self.stored = StoredGroups(folder, config.train.num_generations)
        store.settle(folder, store.SAMPLING_FILE, sampling_facts(config))
        if config.exprl.advantage == "self_distillation":
            raise ExtraError("exprl.advantage=self_distillation samples as it goes; run it with `extra-jax exprl`")
        judge, unit = find_judge(folder, config)
        rows = [row for group in self.stored.groups.values() for row in group]
        self.scored = score(rows, store.score_rows(folder, judge), unit, fingerprint(params, policy.mesh), config)
        n = config.train.num_generations
        # A group that teaches nothing (stale, unscored) would only make steps smaller.
        learned = [group.any() for group in self.scored.learned.reshape(-1, n)]
        problems = [problem for problem, kept in zip(self.stored.problems(), learned, strict=True) if kept]
        self.place = {group: index for index, group in enumerate(self.stored.groups)}
        self.loader = ProblemLoader(problems, config.train.prompts_per_step, config.run.seed)

    def next(self, params: nnx.State, step: int, timer: PhaseTimer, journal: Journal) -> Batch:
        with timer.phase("read"):
            n = self.config.train.num_generations
            groups = [problem.uid for problem in self.loader.next()]
            chosen = np.concatenate([np.arange(n) + self.place[group] * n for group in groups])
            local = filled_share(len(groups))
            rows = self.stored.read([groups[i] for i in local])
            return make_batch(self.scored.take(chosen), rows, [i * n + j for i in local for j in range(n)], n)
