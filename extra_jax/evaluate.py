"""Evaluation: n samples for each problem of each benchmark, graded; pass@k, avg@n and maj@n with intervals.

The ``eval`` verb and the training loops run the same code. It goes shard by shard of problems, each on disk before the
next begins: a killed evaluation goes on where it was, and as every draw follows from its identity it ends as if nothing
had happened.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from extra_jax.checkpoint import restore_params
from extra_jax.config import Config, DataConfig
from extra_jax.data.fetch import located
from extra_jax.data.problem import Problem
from extra_jax.data.sources import load_problems
from extra_jax.errors import ExtraError
from extra_jax.model.fingerprint import fingerprint
from extra_jax.parallel.processes import allgather, gather_texts, is_main, process_slice
from extra_jax.policy import Policy, load_policy
from extra_jax.reward.majority import majority_scores
from extra_jax.reward.overlap import OverlappedGrading
from extra_jax.reward.rewards import Rewards, make_rewards, rewards_identity
from extra_jax.reward.verdict import ComparesAnswers
from extra_jax.rollout.session import Progress as OnProgress
from extra_jax.rollout.types import Request, SamplingParams
from extra_jax.run_dir import open_run
from extra_jax.telemetry.evaluations import EvaluationLog, Record, metrics_of
from extra_jax.telemetry.files import to_json
from extra_jax.telemetry.progress import Progress
from extra_jax.telemetry.records import evaluation_rows

_WAVES = 4  # completions a slot decodes in one shard: more lose more to a kill, fewer wait more often for the longest


@dataclass(frozen=True)
class Benchmark:
    """Problems to measure on, their prompts as tokens, and what rewards them."""

    name: str
    source: str
    problems: list[Problem]
    prompts: dict[str, list[int]]
    rewards: Rewards


class Evaluator:
    """Measures a policy on fixed problems with fixed random numbers, so that two measurements are paired.

    Args:
        policy: whose weights come with each call.
        run_dir: where ``evals/`` goes.
    """

    def __init__(self, policy: Policy, run_dir: Path):
        config = policy.config
        self.policy, self.run_dir, self.settings = policy, run_dir, config.eval
        self.params = sampling_of(config)
        self.rewards: dict[str, Rewards] = {}
        self.benchmarks = [self._benchmark(name, data) for name, data in config.benchmarks.items()]
        self.sampler = policy.sampler(self.params, stream="eval", seed=config.eval.seed)

    def _benchmark(self, name: str, data: DataConfig) -> Benchmark:
        config = self.policy.config
        problems = load_problems_of(data, config.eval.seed, config.eval.dir)
        identity = rewards_identity(config.reward, data)
        if identity not in self.rewards:
            self.rewards[identity] = make_rewards(config.reward, data, self.params.max_completion_length)
        self.rewards[identity].check(problems)
        return Benchmark(name, data.source, problems, self.policy.encode_prompts(problems), self.rewards[identity])

    def __call__(self, params: nnx.State, step: int, progress: OnProgress | None = None) -> dict[str, float]:
        """Evaluates parameters in the training layout; writes the completions and the numbers.

        Returns:
            ``eval_*`` metrics, on process 0; empty on the others.
        """
        metrics: dict[str, float] = {}
        for name, record in self.records(params, step, progress).items():
            metrics |= metrics_of(record, f"eval_{name}_" if self.settings.benchmarks else "eval_")
        return metrics

    def records(self, params: nnx.State, step: int, progress: OnProgress | None = None) -> dict[str, Record]:
        """The same as numbers by benchmark; what was measured before is read. Empty on all processes but 0."""
        identity = {
            "num_generations": self.settings.num_generations,
            "sampling": vars(self.params),
            "seed": self.settings.seed,
            "weights": fingerprint(params, self.policy.mesh),
        }
        weights: nnx.State | None = None
        records = {}
        for benchmark in self.benchmarks:
            log = EvaluationLog(self.run_dir, step, identity_of(benchmark) | identity) if is_main() else None
            record = log.finished() if log else None
            if not _agreed(record is not None):
                if weights is None:
                    weights = self.policy.rollout_weights(params)
                with log or nullcontext():
                    self._complete(benchmark, log, weights, step, progress)
                    record = log.finish(_majority(benchmark, log.rows())) if log else None
            if record is not None:
                records[benchmark.name] = record
        return records

    def _complete(
        self,
        benchmark: Benchmark,
        log: EvaluationLog | None,
        weights: nnx.State,
        step: int,
        on_progress: OnProgress | None,
    ) -> None:
        """Samples and grades the problems that are not done yet."""
        n, total = self.settings.num_generations, len(benchmark.problems)
        shard = max(1, _WAVES * self.sampler.shard_slots * self.sampler.shards // n)
        done = _agreed(log.resume(shard) if log else 0)
        for start in range(done, total, shard):
            count = min(shard, total - start)
            mine = [start + i for i in process_slice(count)]
            progress = on_progress and _shifted(on_progress, start * n, total * n)
            problems = [benchmark.problems[i] for i in mine]
            requests = [Request(benchmark.prompts[benchmark.problems[i].uid], n, i * n) for i in mine]
            graded = [problem for problem in problems for _ in range(n)]
            grading = OverlappedGrading(benchmark.rewards, self.policy.tokenizer.decode, graded)
            rollouts = self.sampler.generate(weights, requests, 0, progress, grading.finished)
            rows = evaluation_rows(step, problems, rollouts, *grading.result())
            lines = gather_texts([to_json(row) for row in rows])
            if log:
                log.append(lines[: count * n])  # without what fills the slices

    def close(self) -> None:
        for rewards in self.rewards.values():
            rewards.close()


def identity_of(benchmark: Benchmark) -> dict[str, Any]:
    """What two evaluations of a benchmark must agree in: problems with their wording and answers, and the grader."""
    told = json.dumps([[p.uid, p.prompt, p.answer] for p in benchmark.problems])
    return {
        "benchmark": benchmark.name,
        "source": benchmark.source,
        "grader": benchmark.rewards.name,
        "num_problems": len(benchmark.problems),
        "problems": hashlib.sha256(told.encode()).hexdigest()[:16],
    }


def sampling_of(config: Config) -> SamplingParams:
    """How the completions of an evaluation are drawn."""
    e = config.eval
    length = e.max_completion_length or config.rollout.max_completion_length
    return SamplingParams(e.temperature, e.top_p, e.top_k, e.min_p, length, config.rollout.stop_strings)


def load_problems_of(data: DataConfig, seed: int, folder: str = "") -> list[Problem]:
    """The problems that a ``data`` section describes; standard sets are looked for in ``folder``."""
    return load_problems(
        located(data.source, folder),
        split=data.split,
        seed=seed,
        limit=data.limit,
        prompt_template=data.prompt_template,
        system=data.system,
        columns=data.columns or None,
        **data.task,
    )


def evaluate(config: Config, base: bool = False) -> list[dict[str, Record]]:
    """The ``eval`` verb: measures the newest checkpoint of ``run.dir``, or the initial model where there is none.

    It writes to ``evals/`` only: ``metrics.jsonl`` belongs to the training, which may be running.

    Args:
        config: of the run, or of a new ``run.dir``.
        base: measure the initial model first, unless that was done before.

    Returns:
        Numbers by benchmark, of the initial model (with ``base``) and of the newest checkpoint; one entry where they
        are the same. Empty on all processes but 0.
    """
    if not config.benchmarks:
        raise ExtraError(
            "there is nothing to evaluate on: give bench=aime24,math500, or set eval.data or eval.benchmarks"
        )
    policy, params = load_policy(config)
    run_dir = open_run(config, concerns=("model", "tokenizer"))
    with closing(Evaluator(policy, run_dir)) as evaluator, Progress(0, enabled=is_main()) as progress:
        measured = []
        if base:
            measured.append(evaluator.records(params, 0, progress.rollouts))
        step, params = restore_params(params, run_dir)
        if step or not base:
            measured.append(evaluator.records(params, step, progress.rollouts))
    return [records for records in measured if records]


def _majority(benchmark: Benchmark, rows: Sequence[dict[str, Any]]) -> list[float] | None:
    grader = benchmark.rewards.grader
    if not isinstance(grader, ComparesAnswers):
        return None
    n = len(rows) // len(benchmark.problems)

    def matrix(key: str) -> Iterator[list[Any]]:
        return ([row[key] for row in rows[start : start + n]] for start in range(0, len(rows), n))

    return majority_scores(list(matrix("verdict")), list(matrix("answer")), grader)


def _agreed(number: int) -> int:
    """What process 0 says."""
    return int(allgather(np.array([number], np.int64))[0])


def _shifted(progress: OnProgress, done: int, total: int) -> OnProgress:
    """Progress through all shards of all processes, from this one's through a shard."""
    share = jax.process_count()
    return lambda finished, in_flight, _: progress(min(done + finished * share, total), in_flight * share, total)
