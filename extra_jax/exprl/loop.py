"""Training on judge scores: ``train`` with ``reward: judge`` and the ``exprl`` verb share this loop.

    source -> batch (rollouts, advantages of their tokens) -> learner

Where batches come from is all that differs: from a store that is complete (``StoreSource``) or from rounds of sampling
and judging (``RoundSource``). The ratio compares with the log-probabilities that the sampler stored.
"""

from collections.abc import Callable
from contextlib import ExitStack, closing

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from extra_jax.checkpoint import CHECKPOINTS, Checkpointer
from extra_jax.config import Config
from extra_jax.data.problem import Problem
from extra_jax.errors import ExtraError
from extra_jax.evaluate import Evaluator
from extra_jax.exprl.batch import Batch, Source, to_rollouts
from extra_jax.exprl.drift import Drift
from extra_jax.exprl.rounds import RoundSource
from extra_jax.exprl.stored_source import StoreSource
from extra_jax.learn.grpo import Learner
from extra_jax.model.hf_convert import export_policy
from extra_jax.parallel.shutdown import GracefulStop
from extra_jax.policy import Policy, load_policy
from extra_jax.reward.verdict import Grade, Verdict
from extra_jax.run_dir import check_length, open_run
from extra_jax.telemetry.journal import Journal
from extra_jax.telemetry.summary import rollout_metrics
from extra_jax.telemetry.timing import PhaseTimer
from extra_jax.train import check_batches, check_gradient, is_due


def train_on_scores(config: Config) -> None:
    """``train`` with ``reward: judge``: learns from the rollouts and scores in ``exprl.store``."""
    _train(config, StoreSource)


def exprl(config: Config) -> None:
    """The ``exprl`` verb: rounds of sampling, judging and learning; continues the run that is there."""
    _train(config, RoundSource)


def _train(config: Config, make_source: Callable[[Policy, nnx.State], Source]) -> None:
    check_settings(config)
    # The policy that sampled the rollouts is the one to compare with, however many updates it is ago.
    settings = config.train.model_copy(update={"old_logprobs": "sampler"})
    config = config.model_copy(update={"train": settings})
    policy, params = load_policy(config)
    check_batches(config)
    run_dir = open_run(config)
    learner = Learner(policy.graphdef, config, policy.mesh)
    reference = jax.tree.map(jnp.copy, params) if settings.beta > 0 else None
    source = make_source(policy, params)
    state, first, num_tokens = learner.init(params), 0, 0
    drift = Drift(config.exprl.drift_tolerance)

    with ExitStack() as stack:
        stack.enter_context(closing(source))
        evaluator = stack.enter_context(closing(Evaluator(policy, run_dir))) if config.benchmarks else None
        checkpoints = stack.enter_context(Checkpointer(run_dir / CHECKPOINTS, keep=config.checkpoint.keep))
        stop = stack.enter_context(GracefulStop())
        if checkpoints.latest_step() is not None:
            first, state, host = checkpoints.restore(state)
            if host["loader"]:  # none in a checkpoint that import-hf made
                source.restore(host["loader"])
                drift.restore(host["drift"])
            num_tokens = host["num_tokens"]
            check_length(run_dir, first, settings.max_steps)
        journal = stack.enter_context(Journal(config, total_steps=settings.max_steps, first_step=first))

        for step in range(first, settings.max_steps):
            if evaluator and is_due(step, config.eval.every):
                journal.step(step, evaluator(state.params, step, journal.rollouts))
            timer = PhaseTimer()
            batch = source.next(state.params, step, timer, journal)
            with timer.phase("update"):
                chosen = np.flatnonzero(batch.learnt)
                rollouts = to_rollouts(
                    [batch.rows[i] for i in chosen], [batch.groups[i] for i in chosen], settings.num_generations
                )
                batches = learner.batches(state.params, reference, rollouts, [batch.advantages[i] for i in chosen])
                learned = []
                for part in batches * settings.num_iterations:
                    state, told = learner.update(state, part)
                    learned.append(told)
                jax.block_until_ready(learned)

            metrics = batch_metrics(batch, settings.num_generations) | learner.summary(state, learned)
            metrics |= drift.observe(metrics.get("judge/gap"))
            num_tokens += int(metrics["num_tokens"])
            completion_tokens = settings.completions_per_step * metrics["completions/mean_length"]
            metrics |= {"num_tokens": num_tokens, "epoch": source.epoch, **timer.metrics(completion_tokens)}
            done = step + 1
            check_gradient(done, metrics["grad_norm"], checkpoints.latest_step())
            record(journal, done, batch, settings.num_generations)
            journal.step(done, metrics)
            if alarm := drift.alarm():
                journal.message(alarm)
            stopping = stop.requested()
            if source.may_save(done) and (
                stopping or done == settings.max_steps or is_due(done, config.checkpoint.every)
            ):
                host = {"loader": source.state(), "num_tokens": num_tokens, "drift": drift.state()}
                checkpoints.save(done, state, host)
                if stopping:
                    journal.message(f"asked to stop: saved step {done}; the same command continues")
                    return

        if evaluator:
            journal.step(settings.max_steps, evaluator(state.params, settings.max_steps, journal.rollouts))
        export_policy(policy, state.params, run_dir / "export")
        journal.report()


def check_settings(config: Config) -> None:
    """Refuses settings of other sections that would have no effect here."""
    if config.explore.active:
        raise ExtraError(f"explore.preset={config.explore.preset} does not go with judge scores; set it to grpo")
    if (value := config.train.max_num_gen_batches) != 1:
        raise ExtraError(
            f"train.max_num_gen_batches={value} has no effect on judge scores; remove it (groups of judge scores are "
            "rarely all equal)"
        )
    for entry in config.reward.functions:
        if entry.function == "overlong":
            raise ExtraError("reward.functions: overlong has no effect on judge scores; use exprl.overlong instead")


def batch_metrics(batch: Batch, group_size: int) -> dict[str, float]:
    """The usual numbers of a step's rollouts, and those of the judge; the same on every process."""
    rollouts = to_rollouts(batch.rows, batch.groups, group_size)
    size = np.array([np.abs(a).mean() if kept else 0.0 for a, kept in zip(batch.advantages, batch.learnt, strict=True)])
    usual = rollout_metrics(rollouts, grades_of(batch), np.nan_to_num(batch.reward), size, group_size)
    return usual | batch.scored.metrics() | batch.told


def record(journal: Journal, done: int, batch: Batch, group_size: int) -> None:
    """Writes the rollouts of a step down, with the mean advantage of their tokens."""
    first = {group: row for group, row in zip(reversed(batch.groups), reversed(batch.rows), strict=True)}
    order = {group: place for place, group in enumerate(sorted(first))}
    problems = [Problem(r["uid"], r["problem"], r["answer"], source=r["source"]) for _, r in sorted(first.items())]
    rollouts = to_rollouts(batch.rows, [order[group] for group in batch.groups], group_size)
    texts = [row["text"] for row in batch.rows]
    mean = np.array([a.mean() for a in batch.advantages])
    journal.records(done, problems, rollouts, texts, grades_of(batch), batch.reward, mean)


def grades_of(batch: Batch) -> list[Grade]:
    """The verdicts that were stored with the rollouts."""
    return [Grade(Verdict(row["verdict"]), None, "stored") for row in batch.rows]
