"""Batches from a store that is complete: sampled once, judged by whoever, read in Grain's order."""

import numpy as np
from flax import nnx

from extra_jax.data.loader import ProblemLoader
from extra_jax.errors import ExtraError
from extra_jax.exprl.batch import Batch, Source, make_batch
from extra_jax.exprl.collect import sampling_facts, store_folder
from extra_jax.exprl.scored import find_judge, score
from extra_jax.exprl.stored import StoredGroups
from extra_jax.judge import store
from extra_jax.model.fingerprint import fingerprint
from extra_jax.parallel.processes import filled_share
from extra_jax.policy import Policy
from extra_jax.telemetry.journal import Journal
from extra_jax.telemetry.timing import PhaseTimer


class StoreSource(Source):
    """Groups of stored rollouts as a data set; every epoch is a fresh permutation.

    Args:
        params: what training starts from; rollouts by another policy are stale.

    Raises:
        ExtraError: the store does not fit the configuration, or its scores do not.
    """

    def __init__(self, policy: Policy, params: nnx.State):
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
