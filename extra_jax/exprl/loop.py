"""Training on judge scores: ``train`` with ``reward: judge`` and the ``exprl`` verb share this loop.

    source -> batch (rollouts, advantages of their tokens) -> learner

Where batches come from is all that differs: from a store that is complete (``StoreSource``) or from rounds of sampling
and judging (``RoundSource``). The ratio compares with the log-probabilities that the sampler stored.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from extra_jax.config import Config
from extra_jax.data.problem import Problem
from extra_jax.errors import ExtraError
from extra_jax.exprl.batch import Batch, Source, to_rollouts
from extra_jax.exprl.drift import Drift
from extra_jax.exprl.rounds import RoundSource
from extra_jax.exprl.stored import StoreSource
from extra_jax.learn.grpo import Learner
from extra_jax.reward.scores import Scores
from extra_jax.reward.verdict import Grade, Verdict
from extra_jax.run import Run, TrainResult, check_batches
from extra_jax.runtime import Runtime, load_policy
from extra_jax.telemetry.journal import Record
from extra_jax.telemetry.records import json_numbers, round_significant
from extra_jax.telemetry.summary import rollout_metrics


def train_on_scores(config: Config) -> TrainResult:
    """``train`` with ``reward: judge``: learns from the rollouts and scores in ``exprl.store``."""
    return _train(config, StoreSource)


def exprl(config: Config) -> TrainResult:
    """The ``exprl`` verb: rounds of sampling, judging and learning; continues the run that is there."""
    return _train(config, RoundSource)


def _train(config: Config, make_source: Callable[[Runtime, nnx.State], Source]) -> TrainResult:
    check_settings(config)
    # The policy that sampled the rollouts is the one to compare with, however many updates it is ago.
    settings = config.train.model_copy(update={"old_logprobs": "sampler"})
    config = config.model_copy(update={"train": settings})
    policy, params = load_policy(config)
    check_batches(config)
    group = settings.num_generations
    with Run(policy, settings.max_steps) as run:
        learner = Learner(policy.graphdef, config, policy.mesh)
        reference = jax.tree.map(jnp.copy, params) if settings.beta > 0 else None
        source, drift = run.closing(make_source(policy, params)), Drift()
        run.start(learner.init(params), loader=source, drift=drift)

        for step in run.steps():
            batch = source.next(run.state.params, step, run.timer, run.journal)
            with run.phase("update"):
                chosen = np.flatnonzero(batch.learned).tolist()
                rollouts = to_rollouts([batch.rows[i] for i in chosen], [batch.groups[i] for i in chosen], group)
                advantages = [batch.advantages[i] for i in chosen]
                run.state, learned = learner.step(run.state, reference, rollouts, advantages)

            metrics = batch_metrics(batch, group) | learner.summary(run.state, learned)
            metrics |= drift.observe(metrics.get("judge/gap")) | {"epoch": source.epoch}
            if alarm := drift.alarm():
                run.journal.message(alarm)
            run.finish_step(step, metrics, record(batch, group), may_save=source.may_save(step + 1))
    return run.result()


def check_settings(config: Config) -> None:
    """Refuses settings of other sections that would have no effect here."""
    if config.explore.active:
        raise ExtraError(f"explore.preset={config.explore.preset} does not go with judge scores; set it to grpo")
    if (value := config.train.max_num_gen_batches) != 1:
        raise ExtraError(
            f"train.max_num_gen_batches={value} has no effect on judge scores; remove it (groups of judge scores are "
            "rarely all equal)"
        )
    if config.rollout.noise != "fresh":
        raise ExtraError(
            f"rollout.noise={config.rollout.noise} has no effect on judge scores: each rollout is sampled once. Remove "
            "it, and rollout.reuse with it"
        )
    for entry in config.reward.functions:
        if entry.function == "overlong":
            raise ExtraError("reward.functions: overlong has no effect on judge scores; use exprl.overlong instead")


def batch_metrics(batch: Batch, group_size: int) -> dict[str, float]:
    """The usual numbers of a step's rollouts, and those of the judge; the same on every process."""
    rollouts = to_rollouts(batch.rows, batch.groups, group_size)
    size = np.array(
        [np.abs(a).mean() if kept else 0.0 for a, kept in zip(batch.advantages, batch.learned, strict=True)]
    )
    scores = stored_scores(batch)
    scores = replace(scores, rewards=np.nan_to_num(scores.rewards))
    usual = rollout_metrics(rollouts, scores, size, group_size)
    return {**usual, **batch.scored.metrics(), **batch.metrics}


def record(batch: Batch, group_size: int) -> Record:
    """The rollouts of a step: the mean advantage of their tokens, and by segment what the judge gave."""
    first = {group: row for group, row in zip(reversed(batch.groups), reversed(batch.rows), strict=True)}
    order = {group: place for place, group in enumerate(sorted(first))}
    problems = [Problem(r["uid"], r["problem"], r["answer"], source=r["source"]) for _, r in sorted(first.items())]
    rollouts = to_rollouts(batch.rows, [order[group] for group in batch.groups], group_size)
    advantages = np.array([a.mean() for a in batch.advantages])
    columns = {
        "judged": [row["rollout_id"] for row in batch.rows],
        "segment_tokens": [list(map(int, row["segment_tokens"])) for row in batch.rows],
        "segment_chars": [list(map(int, row["segment_chars"])) for row in batch.rows],
        "segment_scores": [json_numbers(scores) for scores in batch.scores],
        "segment_advantages": [
            json_numbers(round_significant(_by_segment(tokens, row["segment_tokens"])))
            for tokens, row in zip(batch.advantages, batch.rows, strict=True)
        ],
    }
    return Record(problems, rollouts, [row["text"] for row in batch.rows], stored_scores(batch), advantages, columns)


def _by_segment(tokens: np.ndarray, ends: Sequence[int]) -> np.ndarray:
    """``[T]`` means of the values of each segment's tokens; 0 where it has none."""
    return np.array([part.mean() if part.size else 0.0 for part in np.split(tokens, ends)[:-1]])


def stored_scores(batch: Batch) -> Scores:
    """The judge's rewards with the verdicts that were stored with the rollouts."""
    grades = [Grade(Verdict(row["verdict"]), None, "stored") for row in batch.rows]
    correct = np.array([grade.verdict is Verdict.CORRECT for grade in grades], bool)
    return Scores(batch.reward, batch.learned, correct, grades)
