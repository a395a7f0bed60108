"""GRPO: one training step is a straight line from problems to an update, in the order in which it happens.

    prompts -> rollouts -> rewards -> advantages -> exploration -> update

What else a run does stands elsewhere: ``run.py`` restores, evaluates, saves, stops and exports, dynamic sampling and
replay dumps wrap a stage, callbacks look at a step before its update, and exploration is whatever this loop is handed
(``exploration.py``). Shapes, on this process: ``P`` prompts, ``R`` completions, ``D`` width of the model.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from extra_jax.config import Config
from extra_jax.data.load import load_data
from extra_jax.data.loader import ProblemLoader
from extra_jax.data.problem import Problem
from extra_jax.dynamic_sampling import with_dynamic_sampling
from extra_jax.errors import ExtraError
from extra_jax.exploration import Exploration, MakeExploration, make_requests
from extra_jax.learn.advantage import Advantage, make_advantage
from extra_jax.learn.grpo import Learner
from extra_jax.learn.update import TrainState
from extra_jax.noise import make_noise
from extra_jax.parallel.processes import share
from extra_jax.replay import with_dumps
from extra_jax.reward.golds import check_problems
from extra_jax.reward.metrics import reward_metrics
from extra_jax.reward.overlap import OverlappedGrading
from extra_jax.reward.rewards import Rewards, make_rewards
from extra_jax.run import Run, TrainResult, check_batches
from extra_jax.runtime import load_policy, sampling_params
from extra_jax.stages import BeforeUpdate, Callback, OldLogprobs, Sampled, Updates
from extra_jax.telemetry.journal import Record
from extra_jax.telemetry.summary import rollout_metrics


def train(
    config: Config,
    *,
    problems: Sequence[Problem] | None = None,
    explore: MakeExploration | None = None,
    rewards: Rewards | None = None,
    advantage: Advantage | None = None,
    callbacks: Sequence[Callback] = (),
) -> TrainResult:
    """GRPO from ``model`` to ``run.dir``; continues the run that is there.

    Args:
        config: of the run.
        problems: to train on; default: what ``data`` names.
        explore: makes what chooses prompts and changes advantages; default: plain GRPO.
        rewards: grades completions, and is closed at the end; default: what ``reward`` names.
        advantage: the estimator; default: what ``train`` names.
        callbacks: each looks at a step before its update and returns further metrics.

    Raises:
        ExtraError: bad input, found before the first step wherever possible.
    """
    check_explores(config, explore)
    policy, params = load_policy(config)
    check_batches(config)
    settings, group = config.train, config.train.num_generations
    with Run(policy, settings.max_steps) as run:
        problems = load_data(config.data, config.run.seed) if problems is None else problems
        prompt_ids = policy.encode_prompts(problems)
        loader = ProblemLoader(problems, settings.prompts_per_step, config.run.seed)
        advantage = advantage or make_advantage(config)
        exploration = explore(problems, prompt_ids, policy.tokenizer) if explore else Exploration()
        sampler = policy.sampler(sampling_params(config), stream="rollout")
        learner = Learner(policy.graphdef, config, policy.mesh)
        reference = jax.tree.map(jnp.copy, params) if settings.beta > 0 else None
        opens, longest = policy.opens_thinking(prompt_ids.values()), config.rollout.max_completion_length
        rewards = run.closing(rewards or make_rewards(config.reward, config.data, longest, prompt_opens_thinking=opens))
        check_problems(problems, rewards)
        noise = make_noise(policy, sampler, rewards, problems, prompt_ids)
        run.start(learner.init(params), exploration, noise, loader=loader)

        def draw(weights: nnx.State, step: int, first: int, count: int) -> Sampled:
            own = share(count)
            requests = exploration.prompts(loader.next, step, count)  # of all processes
            prompts = requests[own.start : own.stop]  # P
            wanted = noise.requests(requests, make_requests(prompts, prompt_ids, group, first + own.start), own.start)
            answers = [prompt for prompt in prompts for _ in range(group)]  # R
            asked, given = [a.problem for a in answers], [a.prefix_ids for a in answers]
            grading = OverlappedGrading(rewards, policy.tokenizer.decode, asked, given)  # while others still decode
            with run.phase("generate"):
                rollouts = sampler.generate(weights, wanted, step, run.journal.rollouts, grading.finished)
            with run.phase("grade"):
                return Sampled(requests, prompts, rollouts, *grading.result())

        def update(state: TrainState, step: int, sampled: Sampled, advantages: np.ndarray, old: OldLogprobs) -> Updates:
            return learner.step(state, reference, sampled.rollouts, advantages, old)

        sample, learn = with_dynamic_sampling(noise.observed(draw), settings), with_dumps(update, config, policy.mesh)
        for step in run.steps():
            params = run.state.params
            weights = policy.rollout_weights(params)
            sampled = sample(weights, step)  # prompts -> rollouts -> rewards: `draw`, once or more often
            rollouts, scores = sampled.rollouts, sampled.scores  # R
            with run.phase("explore"):
                plain = advantage(scores, rollouts)  # [R]
                scored = learner.scored(params, rollouts, exploration.spans(rollouts))  # [R, D] if wanted
                explored = exploration.advantages(sampled.requests, rollouts, scores, plain, scored.hidden, step)  # [R]
            with run.phase("probe"):
                now = BeforeUpdate(step, policy, params, weights, rewards, sampled, plain, explored, exploration)
                seen = {name: value for callback in callbacks for name, value in callback(now).items()}
                del params, weights, now  # the update needs the room
            with run.phase("update"):
                run.state, updates = learn(run.state, step, sampled, explored.advantages, scored.logprobs)

            usual = rollout_metrics(rollouts, scores, explored.advantages, group) | reward_metrics(scores)
            learned = learner.summary(run.state, updates) | {"epoch": loader.epoch}
            metrics = {**usual, **sampled.metrics, **learned, **explored.metrics, **noise.end_step(), **seen}
            record = Record(sampled.problems, rollouts, sampled.texts, scores, explored.advantages, explored.columns)
            run.finish_step(step, metrics, record)
    return run.result()


def check_explores(config: Config, explore: MakeExploration | None) -> None:
    """Refuses to leave the section ``explore`` without effect."""
    if explore is None and config.explore.active:
        raise ExtraError(
            "this configuration explores, but train() was handed no exploration; call extra_jax.assemble.train, which "
            "makes the one that `explore` describes, or set explore.preset=grpo"
        )
