"""The training loop: one step is a straight line from problems to an update.

    loader -> slots -> sampler -> rollouts -> grader -> rewards -> advantages -> batches -> learner

A slot is a problem, or one that exploration brings back with a prefix; advantages are the task's and the bonus.

Everything that changes the next step is in ``state`` and in the loader's cursor, and both are in every
checkpoint: kill the process anywhere, run the same command again, and it goes on bit-identically.
"""

from collections import ChainMap
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from extra_jax.checkpoint import CHECKPOINTS, Checkpointer
from extra_jax.config import Config
from extra_jax.data.loader import ProblemLoader
from extra_jax.data.problem import Problem
from extra_jax.dynamic_sampling import Graded, GroupPool
from extra_jax.errors import ExtraError
from extra_jax.exploration import PromptRequest
from extra_jax.explore.build import make_exploration
from extra_jax.rollout.types import Request
from extra_jax.data.loader import share
from extra_jax.reward.scores import Scores
from extra_jax.reward.verdict import Verdict
from extra_jax.evaluate import Evaluator, load_problems_of
from extra_jax.learn.advantage import group_advantages
from extra_jax.learn.bundle import write_bundle
from extra_jax.learn.grpo import Learner
from extra_jax.model.fingerprint import fingerprint
from extra_jax.model.hf_convert import export_policy
from extra_jax.parallel.processes import allgather, allgather_rows
from extra_jax.parallel.shutdown import GracefulStop
from extra_jax.policy import Policy, load_policy
from extra_jax.reward.graders import make_grader, rewards_of
from extra_jax.reward.overlap import OverlappedGrading
from extra_jax.reward.shaping import soft_overlong_punishment
from extra_jax.reward.verdict import Grader
from extra_jax.rollout.types import Rollouts, SamplingParams
from extra_jax.run_dir import check_length, open_run
from extra_jax.telemetry.journal import Journal
from extra_jax.telemetry.summary import rollout_metrics
from extra_jax.telemetry.timing import PhaseTimer

Probe = Callable[[nnx.State, nnx.State, Rollouts, int], dict[str, float]]
"""(parameters, rollout weights, rollouts, step) -> metrics; empty in a step where it is not due."""


def train(config: Config) -> None:
    """The ``train`` verb: GRPO from ``model`` to ``run.dir``; continues the run that is there.

    Raises:
        ExtraError: bad input, found before the first step wherever possible.
    """
    policy, params = load_policy(config)
    check_batches(config)
    run_dir = open_run(config)
    settings, group = config.train, config.train.num_generations
    problems = load_problems_of(config.data, config.run.seed)
    prompts = policy.encode_prompts(problems)
    loader = ProblemLoader(problems, settings.prompts_per_step, config.run.seed)
    explorer = make_exploration(config, problems, prompts, policy.tokenizer)
    sampler = policy.sampler(sampling_params(config), stream="rollout")
    learner = Learner(policy.graphdef, config, policy.mesh)
    reference = jax.tree.map(jnp.copy, params) if settings.beta > 0 else None
    state, first, num_tokens = learner.init(params), 0, 0

    with ExitStack() as stack:
        grader = stack.enter_context(closing(make_grader(config.reward, config.data)))
        evaluator = stack.enter_context(closing(Evaluator(policy, run_dir))) if config.benchmarks else None
        checkpoints = stack.enter_context(Checkpointer(run_dir / CHECKPOINTS, keep=config.checkpoint.keep))
        stop = stack.enter_context(GracefulStop())
        probes = []
        if checkpoints.latest_step() is not None:
            first, state, host = checkpoints.restore(state)
            if host["loader"]:  # none in a checkpoint that import-hf made
                loader.restore(host["loader"])
            num_tokens = host["num_tokens"]
            check_length(run_dir, first, settings.max_steps)
        journal = stack.enter_context(Journal(config, total_steps=settings.max_steps, first_step=first))

        for step in range(first, settings.max_steps):
            if evaluator and is_due(step, config.eval.every):
                journal.step(step, evaluator(state.params, step, journal.rollouts))
            timer = PhaseTimer()
            pool = GroupPool(settings.prompts_per_step, settings.prompts_budget, group, config.reward.exclude)
            weights = policy.rollout_weights(state.params)
            while count := pool.more():
                everything = explorer.prompts(loader.next, step, count)
                slots = [everything[i] for i in share(count, jax.process_index(), jax.process_count())]
                with timer.phase("generate"):
                    requests = make_requests(slots, prompts, group, pool.generated)
                    grading = OverlappedGrading(grader, policy.tokenizer.decode, *graded_with(slots, group))
                    rollouts = sampler.generate(weights, requests, step, journal.rollouts, grading.finished)
                with timer.phase("grade"):
                    texts, grades = grading.result()
                pool.add(Graded(slots, rollouts, texts, grades), count)
            slots, rollouts, texts, grades = pool.chosen()
            rewards, valid = rewards_of(grades, config.reward)
            cap, cache = config.rollout.max_completion_length, config.reward.soft_punish_cache
            rewards = rewards + soft_overlong_punishment(rollouts.answer_lengths, cap, cache)
            with timer.phase("explore"):
                task = partial(advantages_of, valid=valid, config=config)
                # with encoder policy_hidden the scoring pass of the update comes first, as novelty reads its states
                scored = learner.scored(state.params, rollouts, explorer.spans(rollouts))
                correct = np.array([g.verdict is Verdict.CORRECT for g in grades])
                scores = Scores(rewards, valid, correct, grades)
                explored = explorer.advantages(everything, rollouts, scores, task(rewards), scored.hidden, step) if hasattr(explorer, 'run') else explorer.advantages(rollouts, scores, task(rewards), None, step)
                advantages = explored.advantages
            with timer.phase("probe"):
                probed = [probe(state.params, weights, rollouts, step) for probe in probes]
            del weights  # the update needs the room
            dumped = step + 1 in settings.dump_steps
            before = fingerprint(state.params, policy.mesh) if dumped else ""
            with timer.phase("update"):
                batches = learner.batches(state.params, reference, rollouts, advantages, scored.logprobs)
                learned = []
                for batch in batches * settings.num_iterations:
                    state, metrics = learner.update(state, batch)
                    learned.append(metrics)
                jax.block_until_ready(learned)

            metrics = rollout_metrics(rollouts, grades, rewards, advantages, group)
            metrics |= pool.metrics() | learner.summary(state, learned) | explored.metrics | ChainMap(*probed)
            num_tokens += int(metrics["num_tokens"])
            completion_tokens = settings.completions_per_step * metrics["completions/mean_length"]
            metrics |= {"num_tokens": num_tokens, "epoch": loader.epoch, **timer.metrics(completion_tokens)}
            done = step + 1
            if dumped:
                write_bundle(run_dir, done, config, before, rollouts, rewards, valid, advantages, learned)
            check_gradient(done, metrics["grad_norm"], checkpoints.latest_step())
            problems = [slot.problem for slot in slots]
            journal.records(done, problems, rollouts, texts, grades, rewards, advantages, columns=explored.columns)
            journal.step(done, metrics)
            if (stopping := stop.requested()) or done == settings.max_steps or is_due(done, config.checkpoint.every):
                host = {"loader": loader.state(), "num_tokens": num_tokens}
                checkpoints.save(done, state, host, None)
            if stopping:
                journal.message(f"asked to stop: saved step {done}; the same command continues")
                return

        if evaluator:
            journal.step(settings.max_steps, evaluator(state.params, settings.max_steps, journal.rollouts))
        export_policy(policy, state.params, run_dir / "export")
        journal.report()


def is_due(step: int, every: int) -> bool:
    """Whether something that happens every so many steps happens at ``step``; 0 means at step 0 only."""
    return step == 0 if every == 0 else step % every == 0


def sampling_params(config: Config) -> SamplingParams:
    """How the training rollouts are drawn."""
    r = config.rollout
    return SamplingParams(r.temperature, r.top_p, r.top_k, r.min_p, r.max_completion_length, r.stop_strings)


def make_requests(slots, prompts, group, first):
    out = []
    for index, slot in enumerate(slots, start=first):
        ids, prefix = prompts[slot.problem.uid], slot.prefix_ids
        if not prefix:
            out.append(Request(ids, group, index * group))
        elif slot.prefix_in_prompt:
            out.append(Request([*ids, *prefix], group, index * group))
        else:
            out.append(Request(ids, group, index * group, prefix_ids=prefix))
    return out


def graded_with(slots, group):
    rows = [slot for slot in slots for _ in range(group)]
    return [slot.problem for slot in rows], [slot.prefix_ids for slot in rows]


def advantages_of(rewards: np.ndarray, valid: np.ndarray, config: Config) -> np.ndarray:
    """``[R]`` advantages of this process's completions; ``scale_rewards: batch`` looks at all processes."""
    groups = [allgather_rows(x).reshape(-1, config.train.num_generations) for x in (rewards, valid)]
    everywhere = group_advantages(*groups, config.train.scale_rewards, 1e-6 if config.explore.preset == 'release_faithful' else 1e-4).ravel()
    before = int(allgather(np.array([len(rewards)]))[: jax.process_index()].sum())
    return everywhere[before : before + len(rewards)]


def check_gradient(step: int, norm: float, last_checkpoint: int | None) -> None:
    """Stops a run whose parameters are about to become, or have become, useless."""
    if not np.isfinite(norm):
        last = f"step {last_checkpoint}; export-hf makes a model of it" if last_checkpoint else "none"
        raise ExtraError(
            f"step {step}: the gradient is not finite (last checkpoint: {last}). Start a new run with a lower "
            "optim.learning_rate or with model.dtype=float32"
        )


def check_batches(config: Config) -> None:
    """Refuses a batch that the processes cannot share evenly."""
    t, processes = config.train, jax.process_count()
    if t.prompts_per_step % (processes * t.num_minibatches):
        raise ExtraError(
            f"train.prompts_per_step={t.prompts_per_step} must be a multiple of {processes} processes x "
            f"train.num_minibatches={t.num_minibatches}"
        )
