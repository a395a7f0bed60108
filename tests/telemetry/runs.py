"""Small run directories for the tests of records and report."""

import json

import numpy as np

from extra_jax.data.problem import Problem
from extra_jax.reward.scores import Scores
from extra_jax.reward.verdict import Grade, Verdict
from extra_jax.rollout.types import Rollouts, StopReason
from extra_jax.telemetry.evaluations import EvaluationLog, flat_metrics
from extra_jax.telemetry.files import to_json
from extra_jax.telemetry.metrics import MetricsLog
from extra_jax.telemetry.records import evaluation_rows, write_rollouts


def problems_of(count):
    return [Problem(f"p{i}", f"What is {i} + <b>{i}</b>?", str(2 * i), source="sums") for i in range(count)]


def rollouts_of(prompts, group, length=5, seed=0):
    """``prompts x group`` completions of 1 to ``length`` tokens."""
    generator = np.random.default_rng(seed)
    rows = prompts * group
    lengths = generator.integers(1, length + 1, rows).astype(np.int32)
    return Rollouts(
        rollout_ids=np.arange(100, 100 + rows),
        prompt_index=np.repeat(np.arange(prompts), group).astype(np.int32),
        prompt_ids=[np.array([7, i // group]) for i in range(rows)],
        tokens=generator.integers(0, 50, (rows, length)).astype(np.int32),
        lengths=lengths,
        logprobs=-generator.random((rows, length)).astype(np.float32),
        entropies=generator.random((rows, length)).astype(np.float32),
        stop_reasons=[StopReason.LENGTH if n == length else StopReason.STOP_TOKEN for n in lengths],
        prefix_ids=[np.zeros(0, np.int32)] * rows,
        full_logprobs=-generator.random((rows, length)).astype(np.float32),
        filter_logprob_mass=np.zeros((rows, length), np.float32),
    )


def grades_of(correct):
    return [Grade(Verdict.CORRECT if c else Verdict.WRONG, "4" if c else None, "sums/1") for c in correct]


def scores_for(correct):
    parts = {"sums": correct * 1.0}
    return Scores(correct * 1.0, np.ones(len(correct), bool), correct, grades_of(correct), parts)


def texts_of(correct):
    return [f"I say {'right' if c else 'wrong'} <i>{i}</i>" for i, c in enumerate(correct)]


def write_records(run_dir, step, correct):
    """Training records of a ``[P, N]`` outcome matrix."""
    correct = np.asarray(correct, bool)
    flat = correct.ravel()
    rollouts = rollouts_of(*correct.shape)
    problems, advantages = problems_of(len(correct)), flat - flat.mean()
    return write_rollouts(
        run_dir, step, problems, rollouts, texts_of(flat), grades_of(flat), flat * 1.0, advantages
    )  # fmt: skip


def eval_identity(count, samples, benchmark="sums", **other):
    """What is evaluated: ``count`` problems of the task sums."""
    return {
        "benchmark": benchmark, "source": "sums", "grader": "sums/1", "num_problems": count, "problems": f"p{count}",
        "num_generations": samples, "sampling": {"temperature": 1.0}, "seed": 0, "weights": "00",
    } | other  # fmt: skip


def eval_lines(step, correct, uids=None, verdicts=None):
    """The rows of a ``[P, N]`` outcome matrix; lengths are ``10 + step``, wrong completions are truncated."""
    correct = np.asarray(correct, bool)
    flat = correct.ravel()
    rollouts = rollouts_of(*correct.shape)
    rows = evaluation_rows(
        step, problems_of(len(correct)), rollouts, texts_of(flat), scores_for(flat)
    )  # fmt: skip
    for index, row in enumerate(rows):
        row |= {"length": 10 + step, "stop_reason": "stop_token" if flat[index] else "length"}
        if uids is not None:
            row["uid"] = uids[index // correct.shape[1]]
        if verdicts is not None:
            row["verdict"] = str(np.asarray(verdicts).ravel()[index])
    return [to_json(row) for row in rows]


def write_eval(run_dir, step, correct, uids=None, verdicts=None, majority=None, own=True, guesser=None, **identity):
    """A finished evaluation of a ``[P, N]`` outcome matrix; returns its metrics."""
    with EvaluationLog(run_dir, step, eval_identity(*np.shape(correct), **identity), own=own) as log:
        log.resume(1)
        log.append(eval_lines(step, correct, uids, verdicts))
        return flat_metrics(log.finish(majority, guesser), "eval_")


def training_metrics(step, nan=False):
    return {
        "reward": 0.1 * step,
        "pass_rate": 0.1 * step,
        "frac_reward_zero_std": 0.5,
        "groups/frac_all_correct": 0.1,
        "groups/frac_all_wrong": 0.4,
        "groups/frac_mixed": 0.5,
        "completions/mean_length": 80.0 + step,
        "completions/clipped_ratio": 0.05,
        "entropy": 0.9,
        "grad_norm": float("nan") if nan else 0.3,
        "advantages/abs_mean": 0.7,
        "tokens_per_second": 1234.5,
        "num_tokens": 1000 * step,
        "verdicts/no_answer": 0.1,
        "step_time": 6.2,
        "timing_s/generate": 4.0,
        "timing_s/update": 2.0,
        "loss": 1e-9,
    }


def write_run(run_dir, steps=5, evaluate=True):
    """A whole run: metrics, evaluations before and after, records, configuration, environment."""
    before = np.zeros((40, 4), bool)
    before[:5] = True
    after = before.copy()
    after[:30] = True
    after[4] = False
    with MetricsLog(run_dir) as log:
        if evaluate:
            log.log(0, write_eval(run_dir, 0, before), time=1_700_000_000.0)
        for step in range(1, steps + 1):
            log.log(step, training_metrics(step, nan=step == 2), time=1_700_000_000.0 + 60 * step)
            write_records(run_dir, step, [[True, False], [False, False]])
        if evaluate:
            log.log(steps, write_eval(run_dir, steps, after), time=1_700_000_000.0 + 60 * steps)
    (run_dir / "config.yaml").write_text("run:\n  dir: runs/<x>\n")
    (run_dir / "run.json").write_text(json.dumps({"jax": "0.10.2", "devices": ["cpu:0"], "host": {"cores": 2}}))
