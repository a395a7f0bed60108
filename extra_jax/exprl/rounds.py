"""Batches from rounds: sample with the policy as it stands, have it judged, learn, again.

A round's rollouts and scores are files, so a killed round goes on: what was sampled and judged is found again. The
judge is an endpoint that is asked from here, or anybody who writes scores into the store.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from flax import nnx

from extra_jax.data.load import load_data
from extra_jax.data.loader import ProblemLoader
from extra_jax.errors import ExtraError
from extra_jax.exprl.batch import Batch, Source, make_batch
from extra_jax.exprl.collect import Collector, group_ids
from extra_jax.exprl.distill import Teacher
from extra_jax.exprl.scored import Scored, find_judge, score, unjudged
from extra_jax.exprl.stored import StoredGroups
from extra_jax.judge import store
from extra_jax.parallel.processes import agree, filled_share, on_main
from extra_jax.runtime import Runtime
from extra_jax.telemetry.journal import Journal
from extra_jax.telemetry.timing import PhaseTimer

_POLL = 2.0  # seconds between two looks for scores that somebody else writes


class RoundSource(Source):
    """``exprl.steps_per_round`` steps on the rollouts of one policy, then new ones.

    Args:
        params: what training starts from: the teacher of self-distillation.

    Raises:
        ExtraError: the number of steps is no whole number of rounds, or the problems or the store do not fit.
    """

    def __init__(self, policy: Runtime, params: nnx.State):
        config = self.config = policy.config
        self.per_round, t = config.exprl.steps_per_round, config.train
        if t.max_steps % self.per_round:
            raise ExtraError(f"train.max_steps={t.max_steps} is no multiple of exprl.steps_per_round={self.per_round}")
        problems = load_data(config.data, config.run.seed)
        self.loader = ProblemLoader(problems, t.prompts_per_step * self.per_round, config.run.seed)
        self.collector = Collector(policy, problems)
        self.teacher = None
        if config.exprl.advantage == "self_distillation":
            self.teacher = Teacher(policy, params, problems)
        self.round: tuple[StoredGroups, list[str], Scored] | None = None

    def next(self, params: nnx.State, step: int, timer: PhaseTimer, journal: Journal) -> Batch:
        number, place = divmod(step, self.per_round)
        if place == 0:
            self.round = self._sample(params, number, timer, journal)
        assert self.round is not None  # the first step of a round made it, and no other one is continued at
        stored, groups, scored = self.round
        n, prompts = self.config.train.num_generations, self.config.train.prompts_per_step
        start, local = place * prompts, filled_share(prompts)
        rows = stored.read([groups[start + i] for i in local])
        part = scored.take(np.arange(start * n, (start + prompts) * n))
        batch = make_batch(part, rows, [i * n + j for i in local for j in range(n)], n)
        if self.teacher is None:
            return batch
        with timer.phase("teach"):
            advantages, metrics = self.teacher.advantages(rows)
            return replace(batch, advantages=advantages, metrics=metrics)

    def _sample(
        self, params: nnx.State, number: int, timer: PhaseTimer, journal: Journal
    ) -> tuple[StoredGroups, list[str], Scored]:
        """Rollouts of a round and what they are worth."""
        problems = self.loader.next()
        with timer.phase("generate"):
            policy = self.collector(params, problems, number, journal.rollouts)
            agree(0)  # what one process wrote, the others are about to read
        folder, n = self.collector.folder, self.config.train.num_generations
        prefix = f"{number:06d}-{policy}-"
        stored = StoredGroups(folder, n, prefix)
        groups = group_ids(problems, number, policy)
        rows = [row for group in groups for row in stored.groups[group]]
        if self.teacher is not None:
            return stored, groups, unjudged(rows)
        with timer.phase("judge"):
            if self.config.judge.endpoint is not None:
                on_main(lambda: self._ask(prefix, number, journal))
                name, unit = find_judge(folder, self.config)
                scores = store.score_rows(folder, name, prefix)
                return stored, groups, score(rows, scores, unit, policy, self.config)
            return stored, groups, self._await(rows, policy, number, journal)

    def _ask(self, prefix: str, number: int, journal: Journal) -> None:
        """Has the endpoint judge a round."""
        from extra_jax.judge.run import judge  # needs `openai`, which those who only wait do without

        tally = judge(self.collector.folder, self.config.judge, prefix, quiet=True)
        if lost := tally.statuses.total() - tally.statuses["ok"]:
            why = "".join(f"; the last {status}: {words}" for status, words in tally.words.items())
            journal.message(f"round {number}: {lost:,} of {tally.statuses.total():,} units without a score{why}")

    def _await(self, rows: Sequence[Mapping[str, Any]], policy: str, number: int, journal: Journal) -> Scored:
        """The scores of a round that somebody else writes, as soon as every unit has ended in some way."""
        folder, wanted = self.collector.folder, {row["rollout_id"] for row in rows}
        seen: set[str] = set()
        scores: list[dict[str, Any]] = []
        deadline, announced = time.monotonic() + self.config.exprl.wait_timeout, False
        while True:
            complete = False
            if store.judges(folder):
                name, unit = find_judge(folder, self.config)
                for part in store.parts(folder, f"{store.SCORES}/{name}", but=seen):
                    seen.add(part.name)
                    scores += [row for row in part.read(store.SCORE_KEYS) if row["rollout_id"] in wanted]
                units = sum(1 if unit == "rollout" else len(row["segment_tokens"]) for row in rows)
                complete = len({(row["rollout_id"], row["segment"]) for row in scores}) >= units
            if agree(complete, np.min):
                return score(rows, scores, unit, policy, self.config)
            if agree(time.monotonic() > deadline):
                raise ExtraError(
                    f"{folder}: round {number} waited {self.config.exprl.wait_timeout:g} s for scores. Judge it with "
                    f"`extra-jax judge {folder} ...`, or set judge.endpoint; the same command then continues"
                )
            if not announced:
                journal.message(f"round {number}: {len(rows):,} rollouts in {folder} wait for their scores")
                announced = True
            time.sleep(_POLL)

    def may_save(self, done: int) -> bool:
        return done % self.per_round == 0

    def close(self) -> None:
        self.collector.close()
