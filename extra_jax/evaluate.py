"""Evaluation: n samples for each held-out problem, graded; pass@k with intervals."""

from contextlib import closing
from pathlib import Path

import numpy as np
from flax import nnx

from extra_jax.checkpoint import restore_params
from extra_jax.config import Config, DataConfig
from extra_jax.data.problem import Problem
from extra_jax.data.sources import load_problems
from extra_jax.errors import ExtraError
from extra_jax.parallel.processes import allgather, is_main, process_slice
from extra_jax.policy import Policy, load_policy
from extra_jax.reward.graders import make_grader, rewards_of
from extra_jax.reward.verdict import Verdict
from extra_jax.rollout.engine import Progress as OnProgress
from extra_jax.rollout.types import Request, SamplingParams
from extra_jax.run_dir import open_run
from extra_jax.telemetry.progress import Progress
from extra_jax.telemetry.records import write_evaluation, write_rollouts


class Evaluator:
    """Measures a policy on fixed problems with fixed random numbers, so that two measurements are paired.

    Args:
        policy: whose weights come with each call.
        run_dir: where ``evals/`` goes.
    """

    def __init__(self, policy: Policy, run_dir: Path):
        config = policy.config
        self.policy, self.run_dir, self.settings = policy, run_dir, config.eval
        self.problems = load_problems_of(config.eval.data, config.run.seed)
        self.prompts = policy.encode_prompts(self.problems)
        self.grader = make_grader(config.reward, config.eval.data)
        self.params = SamplingParams(
            config.eval.temperature,
            config.eval.top_p,
            config.eval.top_k,
            config.eval.min_p,
            config.eval.max_completion_length or config.rollout.max_completion_length,
        )
        self.sampler = policy.sampler(self.params, stream="eval")

    def __call__(self, params: nnx.State, step: int, progress: OnProgress | None = None) -> dict[str, float]:
        """Evaluates parameters in the training layout; writes the completions and the matrix of verdicts.

        Returns:
            ``eval_*`` metrics, on process 0; empty on the others.
        """
        n, total = self.settings.num_generations, len(self.problems)
        mine = process_slice(total)
        requests = [Request(self.prompts[self.problems[i].uid], n, i * n) for i in mine]
        weights = self.policy.rollout_weights(params)
        rollouts = self.sampler.generate(weights, requests, 0, progress)
        texts = self.policy.decode(rollouts)
        problems = [self.problems[i] for i in mine]
        grades = self.grader.grade([p for p in problems for _ in range(n)], texts)
        verdicts = np.array([list(Verdict).index(grade.verdict) for grade in grades])
        rows = np.stack([verdicts, rollouts.lengths, rollouts.truncated], axis=1).reshape(len(mine), n, 3)
        verdicts, lengths, truncated = np.moveaxis(allgather(rows)[:total], -1, 0)  # without the filling of the slices
        if not is_main():
            return {}
        rewards, _ = rewards_of(grades, self.policy.config.reward)
        write_rollouts(self.run_dir, step, problems, rollouts, texts, grades, rewards, kind="evals")
        return write_evaluation(
            self.run_dir,
            step,
            [problem.uid for problem in self.problems],
            verdicts == list(Verdict).index(Verdict.CORRECT),
            lengths,
            truncated,
            source=self.settings.data.source,
            grader=self.grader.name,
            sampling=vars(self.params),
            verdicts=np.array(list(Verdict))[verdicts],
        )

    def close(self) -> None:
        self.grader.close()


def load_problems_of(data: DataConfig, seed: int) -> list[Problem]:
    """The problems that a ``data`` section describes."""
    return load_problems(
        data.source,
        split=data.split,
        seed=seed,
        limit=data.limit,
        prompt_template=data.prompt_template,
        system=data.system,
        columns=data.columns or None,
        **data.task,
    )


def evaluate(config: Config) -> dict[str, float]:
    """The ``eval`` verb: measures the newest checkpoint of ``run.dir``, or the initial model where there is none.

    It writes to ``evals/`` only: ``metrics.jsonl`` belongs to the training, which may be running.
    """
    if config.eval.data is None:
        raise ExtraError("eval.data is not set: say what to evaluate on, e.g. eval.data.source=countdown")
    policy, params = load_policy(config)
    run_dir = open_run(config, concerns=("model", "tokenizer"))
    step, params = restore_params(params, run_dir)
    evaluator = Evaluator(policy, run_dir)
    with closing(evaluator), Progress(total_steps=step, enabled=is_main(), first_step=step) as progress:
        metrics = evaluator(params, step, progress.rollouts)
        progress.step(step, metrics)
    return metrics
