"""The exploration door: *optax for advantages*.

A **transform** is three functions without a class around them: ``init`` makes its state, ``update`` takes the values of
a step and gives others, and ``chain`` puts several behind each other. At the end of a run's chain the values are the
advantages that are learned from; inside of ``bonus(...)`` they are a bonus in the making. A **prompt policy** is the
same for prompts. A state is a tree of dicts, lists, numbers, texts and numpy arrays, which is in every checkpoint; a
state of another kind brings ``save`` and ``load``. ``docs/howto/own-bonus.md`` has examples.

    def shorter(weight: float = 0.1) -> Transform:
        def update(step, values, state):
            bonus = -weight * (step.lengths - step.lengths.mean(axis=1, keepdims=True)) / step.run.max_completion_length
            return values + np.where(step.correct, bonus, 0.0), state, {"shorter_mean": bonus.mean()}
        return stateless(update)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from extra_jax.doors import Registry
from extra_jax.exploration import PromptRequest
from extra_jax.explore.step import RunInfo, Step

Report = Mapping[str, Any]
"""What a transform says about a step: a number is the metric ``exploration/NAME``; an array or list of ``P x G``
entries is a column of the rollout records. What is not finite is left out."""

Draw = Callable[[int], list[PromptRequest]]
"""``draw(n)``: the next ``n`` prompts of whatever comes before: the loader, or the policy inside of this one."""


def _unchanged(state: Any, run: RunInfo | None = None) -> Any:
    return state


class Transform(NamedTuple):
    """Attributes:
    init: ``init(run) -> state``.
    update: ``update(step, values [P, G], state) -> values, state, report``. NaN says that there is no value. Every
        process calls it with the same step (``step.py``) and must come to the same result.
    save: state -> tree, where the state is no tree itself.
    load: ``load(tree, run) -> state``, the way back.
    reads: what it wants besides the numbers: ``"vectors"`` of the encoder, or ``"hidden"`` states of the policy,
        which cost a scoring pass where the update makes none.
    """

    init: Callable[[RunInfo], Any]
    update: Callable[[Step, np.ndarray, Any], tuple[np.ndarray, Any, Report]]
    save: Callable[[Any], Any] = _unchanged
    load: Callable[[Any, RunInfo], Any] = _unchanged
    reads: tuple[str, ...] = ()


@dataclass(frozen=True)
class PromptStep:
    """The step that prompts are chosen for: its index from 0, how many prompts are wanted, and the run."""

    index: int
    count: int
    run: RunInfo


class PromptPolicy(NamedTuple):
    """Attributes:
    init: ``init(run) -> state``.
    prompts: ``prompts(draw, state, step: PromptStep) -> prompts, state``, ``step.count`` of them.
    observe: ``observe(step, state) -> state, report`` after the step's completions were graded.
    save, load: as of ``Transform``.
    """

    init: Callable[[RunInfo], Any]
    prompts: Callable[[Draw, Any, PromptStep], tuple[list[PromptRequest], Any]]
    observe: Callable[[Step, Any], tuple[Any, Report]] = lambda step, state: (state, {})
    save: Callable[[Any], Any] = _unchanged
    load: Callable[[Any, RunInfo], Any] = _unchanged


def stateless(update: Callable[[Step, np.ndarray, Any], tuple[np.ndarray, Any, Report]]) -> Transform:
    """A transform that remembers nothing."""
    return Transform(lambda run: {}, update)


def chain(*transforms: Transform) -> Transform:
    """One after another; each takes the values of the one before, and reports of all are joined."""

    def init(run: RunInfo) -> list[Any]:
        return [transform.init(run) for transform in transforms]

    def update(step: Step, values: np.ndarray, state: list[Any]) -> tuple[np.ndarray, list[Any], Report]:
        states: list[Any] = []
        reports: dict[str, Any] = {}
        for transform, own in zip(transforms, state, strict=True):
            values, own, report = transform.update(step, values, own)
            states.append(own)
            reports |= report
        return values, states, reports

    def save(state: list[Any]) -> list[Any]:
        return [transform.save(own) for transform, own in zip(transforms, state, strict=True)]

    def load(tree: Sequence[Any], run: RunInfo) -> list[Any]:
        return [transform.load(own, run) for transform, own in zip(transforms, tree, strict=True)]

    return Transform(init, update, save, load, tuple({name for transform in transforms for name in transform.reads}))


def bonus(*transforms: Transform, name: str = "bonus") -> Transform:
    """What the transforms make out of nothing is added to the advantages; where it is NaN or 0 they stay as they are.

    Reports numbers ``NAME_*`` and the column ``NAME``, so that a second bonus of a run takes another name.
    """
    inner = chain(*transforms)

    def update(step: Step, values: np.ndarray, state: Any) -> tuple[np.ndarray, Any, Report]:
        added, state, report = inner.update(step, np.full(values.shape, np.nan), state)
        paid = np.isfinite(added) & (added != 0.0)
        numbers = {f"{name}_{key}": value for key, value in _bonus_numbers(step, added).items()}
        column = [None if not ok else round(x, 6) for x, ok in zip(added.flat, np.isfinite(added).flat, strict=True)]
        return np.where(paid, values + np.nan_to_num(added), values), state, {**report, **numbers, name: column}

    return inner._replace(update=update)


def _bonus_numbers(step: Step, added: np.ndarray) -> Report:
    """How large the bonus is beside the advantages of the task, and who gets it."""
    known = np.isfinite(added)
    size = np.abs(added[known])
    mixed = known & step.mixed[:, None]
    all_correct = known & step.correct.all(axis=1, keepdims=True)
    of_task = mean(np.abs(step.advantages[mixed]))
    return {
        "abs_mean": mean(size),
        "to_advantage": mean(np.abs(added[mixed])) / max(of_task, 1e-12),
        "share_all_correct": np.abs(added[all_correct]).sum() / size.sum() if size.sum() else np.nan,
        "negative_share": mean(added[known] < 0.0),
    }


def mean(values: Any) -> float:
    """The mean, and NaN of nothing, which no report shows."""
    values = np.asarray(values, np.float64)
    return float(values.mean()) if values.size else float("nan")


BONUSES: Registry[Callable[..., Transform]] = Registry("bonus", "explore.bonus")
"""Functions that take settings and give a ``Transform``."""

PROMPTS: Registry[Callable[..., PromptPolicy]] = Registry("prompt policy", "explore.prompts")
"""Functions that take settings and give a ``PromptPolicy``."""
