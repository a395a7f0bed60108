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
from flax import nnx

from extra_jax.checkpoint import restore_params
from extra_jax.config import Config, DataConfig
from extra_jax.data.load import load_data
from extra_jax.data.problem import Problem
from extra_jax.data.sources import guess_rates
from extra_jax.errors import ExtraError
from extra_jax.model.fingerprint import fingerprint
from extra_jax.parallel.processes import agree, filled_share, gather_objects, is_main
from extra_jax.reward.golds import check_problems
from extra_jax.reward.majority import majority_scores
from extra_jax.reward.overlap import OverlappedGrading
from extra_jax.reward.rewards import Rewards, make_rewards, rewards_identity
from extra_jax.reward.verdict import ComparesAnswers
from extra_jax.rollout.session import Progress as OnProgress
from extra_jax.rollout.types import Request
from extra_jax.run_dir import open_run
from extra_jax.runtime import Runtime, eval_sampling, load_policy
from extra_jax.telemetry.evaluations import EvaluationLog, Record, flat_metrics
from extra_jax.telemetry.files import to_json
from extra_jax.telemetry.progress import Progress
from extra_jax.telemetry.records import evaluation_rows

# Completions that every cache row decodes between two writes to the disk. With more of them a kill loses more; with
# fewer the rows wait more often for the longest completion.
_WAVES = 4


@dataclass(frozen=True)
class Benchmark:
    """Problems to measure on, their prompts as tokens, what rewards them, and how often a guess solves each."""

    name: str
    source: str
    problems: list[Problem]
    prompts: dict[str, list[int]]
    rewards: Rewards
    guesser: list[float] | None


class Evaluator:
    """Measures a policy on fixed problems with fixed random numbers, so that two measurements are paired.

    Args:
        policy: whose weights come with each call.
        run_dir: where ``evals/`` goes.
        own: measurements of the run itself; others go beside them where they were made in another way.
    """

    def __init__(self, policy: Runtime, run_dir: Path, *, own: bool = True):
        config = policy.config
        self.policy, self.run_dir, self.own, self.settings = policy, run_dir, own, config.eval
        self.params = eval_sampling(config)
        self.rewards: dict[str, Rewards] = {}
        self.benchmarks = [self._benchmark(name, data) for name, data in config.benchmarks.items()]
        self.sampler = policy.sampler(self.params, stream="eval", seed=config.eval.seed, training=own)

    def _benchmark(self, name: str, data: DataConfig) -> Benchmark:
        config = self.policy.config
        problems = load_data(data, config.eval.seed, config.eval.dir)
        prompts = self.policy.encode_prompts(problems)
        opens = self.policy.opens_thinking(prompts.values())
        identity = f"{rewards_identity(config.reward, data)} {opens}"
        if identity not in self.rewards:
            self.rewards[identity] = make_rewards(
                config.reward, data, self.params.max_completion_length, prompt_opens_thinking=opens
            )
        check_problems(problems, self.rewards[identity])
        guesser = guess_rates(data.source, problems)  # on every process, before step 1: it may be the user's
        return Benchmark(name, data.source, problems, prompts, self.rewards[identity], guesser)

    def __call__(self, params: nnx.State, step: int, progress: OnProgress | None = None) -> dict[str, float]:
        """Evaluates parameters in the training layout; writes the completions and the numbers.

        Returns:
            ``eval_*`` metrics, on process 0; empty on the others.
        """
        metrics: dict[str, float] = {}
        for name, record in self.records(params, step, progress).items():
            metrics |= flat_metrics(record, f"eval_{name}_" if self.settings.benchmarks else "eval_")
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
            described = benchmark_identity(benchmark) | identity
            log = EvaluationLog(self.run_dir, step, described, own=self.own) if is_main() else None
            record = log.finished() if log else None
            if not agree(record is not None):  # process 0 alone has a log
                if weights is None:
                    weights = self.policy.rollout_weights(params)
                with log or nullcontext():
                    self._complete(benchmark, log, weights, step, progress)
                    if log:
                        record = log.finish(_majority(benchmark, log.rows()), benchmark.guesser)
            if log and log.aside:
                print(f"{benchmark.name}: step {step} was measured in another way before; this is in {log.folder}")
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
        done = int(agree(log.resume(shard) if log else 0))
        for start in range(done, total, shard):
            count = min(shard, total - start)
            rows = [start + i for i in filled_share(count)]
            progress = on_progress and _shifted(on_progress, start * n, total * n)
            problems = [benchmark.problems[i] for i in rows]
            requests = [Request(benchmark.prompts[benchmark.problems[i].uid], n, i * n) for i in rows]
            graded = [problem for problem in problems for _ in range(n)]
            grading = OverlappedGrading(benchmark.rewards, self.policy.tokenizer.decode, graded)
            rollouts = self.sampler.generate(weights, requests, 0, progress, grading.finished)
            records = evaluation_rows(step, problems, rollouts, *grading.result())
            lines = gather_objects([to_json(record) for record in records])
            if log:
                log.append(lines[: count * n])  # without what fills the slices

    def close(self) -> None:
        for rewards in self.rewards.values():
            rewards.close()


def benchmark_identity(benchmark: Benchmark) -> dict[str, Any]:
    """What two evaluations of a benchmark must agree in: problems with their wording and answers, and the grader."""
    wording = json.dumps([[p.uid, p.prompt, p.answer] for p in benchmark.problems])
    return {
        "benchmark": benchmark.name,
        "source": benchmark.source,
        "grader": benchmark.rewards.name,
        "num_problems": len(benchmark.problems),
        "problems": hashlib.sha256(wording.encode()).hexdigest()[:16],
    }


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
    with closing(Evaluator(policy, run_dir, own=False)) as evaluator, Progress(0, enabled=is_main()) as progress:
        measured = []
        if base:
            measured.append(evaluator.records(params, 0, progress.rollouts))
        step, params = restore_params(params, config, run_dir)
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


def _shifted(progress: OnProgress, done: int, total: int) -> OnProgress:
    """Progress through all shards of all processes, from this one's through a shard."""
    n = jax.process_count()
    return lambda finished, in_flight, _: progress(min(done + finished * n, total), in_flight * n, total)
