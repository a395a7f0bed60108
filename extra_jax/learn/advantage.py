"""The advantage door: ``train.advantage`` names the function from rewards to advantages.

See ``docs/howto/own-advantage.md``.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from extra_jax.config import Config
from extra_jax.doors import Registry, refuse_unknown, takes_any
from extra_jax.errors import ExtraError
from extra_jax.learn import estimators
from extra_jax.parallel.processes import allgather, allgather_rows, gather_objects
from extra_jax.reward.scores import Scores
from extra_jax.rollout.types import Rollouts

Estimator = Callable[..., np.ndarray]
"""``f(rewards [P, G] f64, valid [P, G] bool, **asked) -> [P, G]``; ``INPUTS`` and settings are asked for by name."""

Advantage = Callable[[Scores, Rollouts], np.ndarray]
"""Scores and rollouts of this process -> ``[R]`` f64 advantages of its completions; all processes call it together."""

ESTIMATORS: Registry[Estimator] = Registry("advantage estimator", "train.advantage")


def advantage(function: Estimator) -> Estimator:
    """Decorator: ``train.advantage`` may call the estimator by its name.

    Raises:
        ExtraError: the name is taken.
    """
    return ESTIMATORS.register(function.__name__)(function)


for _shipped in (
    estimators.grpo,
    estimators.dr_grpo,
    estimators.rloo,
    estimators.maxrl,
    estimators.pass_at_k,
    estimators.w_reinforce,
    estimators.unlikeliness,
    estimators.ucpo,
):
    advantage(_shipped)


def _logprobs(scores: Scores, rollouts: Rollouts) -> np.ndarray:
    return allgather_rows(
        np.asarray(np.sum(rollouts.logprobs, axis=1, dtype=np.float64, where=rollouts.completion_mask))
    )


def _answers(scores: Scores, rollouts: Rollouts) -> np.ndarray:
    if len(scores.grades) != len(scores.rewards):
        raise ExtraError("train.advantage asks for the answers of completions, which a replay bundle does not hold")
    return np.array(gather_objects([grade.answer or "" for grade in scores.grades]), object)


INPUTS: Mapping[str, Callable[[Scores, Rollouts], np.ndarray]] = {
    "correct": lambda scores, rollouts: allgather_rows(np.asarray(scores.correct, bool)),
    "logprobs": _logprobs,
    "lengths": lambda scores, rollouts: allgather_rows(rollouts.lengths),
    "answers": _answers,
}
"""What an estimator may ask for, ``[P, G]``: the binary outcome, the log-probability of the completion under the
sampling distribution (the sum over its tokens, in nats), its tokens, and its extracted answer (a text, empty if none).
"""


def make_advantage(config: Config, estimator: Estimator | None = None) -> Advantage:
    """The advantages of a run.

    Args:
        config: ``train.advantage``, and ``train.scale_rewards`` for an estimator that asks for it.
        estimator: this function instead of the one that ``train.advantage.function`` names, with its ``args``.

    Raises:
        ExtraError: there is no such estimator, or a setting that it lacks or does not know. When called: the result is
            no number for each completion, or not 0 where the reward is not valid.
    """
    function = ESTIMATORS.get(config.train.advantage.function) if estimator is None else estimator
    name = getattr(function, "__name__", repr(function))
    asked, settings = _keywords(function, name, config)
    group = config.train.num_generations

    def compute(scores: Scores, rollouts: Rollouts) -> np.ndarray:
        rewards = allgather_rows(np.asarray(scores.rewards, np.float64)).reshape(-1, group)
        valid = allgather_rows(np.asarray(scores.valid, bool)).reshape(-1, group)
        inputs = {key: INPUTS[key](scores, rollouts).reshape(-1, group) for key in asked}
        # NaN: an estimator that forgets the mask is refused, instead of learning from what a grader that failed left
        result = function(np.where(valid, rewards, np.nan), valid, **inputs, **settings)
        own = len(scores.rewards)
        before = int(allgather(np.array([own]))[: jax.process_index()].sum())
        return _checked(result, valid, name).ravel()[before : before + own]

    return compute


def _keywords(function: Estimator, name: str, config: Config) -> tuple[list[str], dict[str, Any]]:
    """The ``INPUTS`` that an estimator asks for, and its settings."""
    signature = inspect.signature(function).parameters
    parameters = list(signature.values())[2:]
    settings = dict(config.train.advantage.args)
    names = [one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    own = [one for one in names if one not in INPUTS]
    checked = settings.keys() & INPUTS.keys() if takes_any(signature) else settings
    refuse_unknown(checked, own, f"train.advantage: args of {name}")
    scale = config.train.scale_rewards
    if "scale_rewards" in own:
        settings.setdefault("scale_rewards", scale)
    elif scale != "group":
        raise ExtraError(
            f"train.scale_rewards={scale} has no effect on train.advantage={name}, which does not ask for it; remove it"
        )
    required = {one.name for one in parameters if one.default is one.empty} & set(own)
    if missing := sorted(required - set(settings)):
        raise ExtraError(
            f"train.advantage: {name} needs {', '.join(missing)}; give it in train.advantage.args. An estimator may "
            f"also ask for {', '.join(INPUTS)}"
        )
    return [one for one in names if one in INPUTS], settings


def _checked(result: np.ndarray, valid: np.ndarray, name: str) -> np.ndarray:
    """``[P, G]`` f64.

    Raises:
        ExtraError: it is not what the door promises.
    """
    result = np.asarray(result, np.float64)
    prompts, group = valid.shape
    if result.shape != valid.shape:
        raise ExtraError(
            f"train.advantage: {name} returned the shape {result.shape} for {prompts} prompts of {group} completions; "
            f"it must return {valid.shape}"
        )
    wrong = ~np.isfinite(result) | (~valid & (result != 0))
    if wrong.any():
        prompt, member = np.argwhere(wrong)[0]
        state = "valid" if valid[prompt, member] else "not valid (the reward says nothing: its advantage must be 0)"
        raise ExtraError(
            f"train.advantage: {name} gave {result[prompt, member]} to completion {member} of prompt {prompt}, which "
            f"is {state}. A reward that is not valid is NaN; keep it out of sums with the mask `valid`"
        )
    return result
