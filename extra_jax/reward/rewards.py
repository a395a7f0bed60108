"""Everything a run's completions are rewarded with, in one object: ``make_rewards``, ``submit``, ``result``."""

import inspect
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from extra_jax.config import DataConfig, RewardConfig
from extra_jax.config.rollout import RewardFunction
from extra_jax.data.problem import Problem
from extra_jax.data.tasks import gym
from extra_jax.errors import ExtraError
from extra_jax.reward import functions as _  # noqa: F401  (they register themselves)
from extra_jax.reward.door import KEY, TIMEOUT, Batch, FunctionReward, TokenIds, find, reward_name, worker_spec
from extra_jax.reward.graders import DEFAULT_VALUES, GradedReward, is_grader
from extra_jax.reward.scores import Scores
from extra_jax.reward.verdict import Grade, Grader, Pending, Verdict
from extra_jax.reward.workers import Outcome

_TASKS = ("countdown", "chain")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Submitted:
    """Completions whose graders are at work already; ``Rewards.score`` waits for them and calls the other functions."""

    problems: Sequence[Problem]
    completions: Sequence[str]
    completion_ids: Sequence[TokenIds]
    grades: Mapping[str, Pending]


class Rewards:
    """The reward functions of a run with their weights, and which of them says ``correct``.

    Args:
        functions: In the order of ``reward.functions``; names differ.
        weights: ``[functions]``.
        correct: Name of the function that says ``correct``.
        threshold: From which value on it does; ``None`` for a grader, whose verdict says it.
        max_completion_length: Tokens that a completion may have.
    """

    def __init__(
        self,
        functions: Sequence[GradedReward | FunctionReward],
        weights: Sequence[float],
        correct: str,
        threshold: float | None,
        max_completion_length: int,
    ) -> None:
        self.functions, self.weights = list(functions), list(weights)
        self._correct, self._threshold = correct, threshold
        self._max_completion_length = max_completion_length
        self._reported: set[tuple[str, str]] = set()

    @property
    def grader(self) -> Grader | None:
        """The grader that says ``correct``; ``None`` where a threshold does."""
        return next((f.grader for f in self._graded if f.name == self._correct and self._threshold is None), None)

    @property
    def name(self) -> str:
        """What says ``correct``, e.g. ``"math/2"``; part of the identity of an evaluation."""
        return self.grader.name if self.grader else f"{self._correct}>={self._threshold:g}"

    @property
    def constant(self) -> bool:
        """Whether the only function is a grader that rewards right and wrong answers alike."""
        weighted = [f for f, weight in zip(self.functions, self.weights, strict=True) if weight != 0]
        if not weighted or not all(isinstance(function, GradedReward) for function in weighted):
            return not weighted
        verdicts = (Verdict.CORRECT, Verdict.WRONG, Verdict.NO_ANSWER)
        return all(len({(DEFAULT_VALUES | f.values)[v] for v in verdicts}) == 1 for f in self._graded)

    def describe(self) -> str:
        """Functions with their weights, and what says ``correct``, in one line."""
        pairs = zip(self.functions, self.weights, strict=True)
        terms = [f.name if weight == 1 else f"{weight:g} x {f.name}" for f, weight in pairs]
        limit = "" if self._threshold is None else f" from {self._threshold:g} on"
        return f"{' + '.join(terms)}, correct by {self._correct}{limit}"

    def check(self, problems: Sequence[Problem]) -> None:
        """Refuses functions that want columns which no problem has.

        Raises:
            ExtraError: names function, column and the nearest one.
        """
        for function in self._others:
            function.check(problems)

    def submit(
        self, problems: Sequence[Problem], completions: Sequence[str], completion_ids: Sequence[TokenIds]
    ) -> Submitted:
        """Starts the graders on ``R`` completions and returns at once, so that they overlap with generation."""
        grades = {function.name: function.grader.submit(problems, completions) for function in self._graded}
        return Submitted(problems, completions, completion_ids, grades)

    def __call__(
        self, problems: Sequence[Problem], completions: Sequence[str], completion_ids: Sequence[TokenIds]
    ) -> Scores:
        """``[R]`` scores; waits for them."""
        return self.score([self.submit(problems, completions, completion_ids)])

    def score(self, submitted: Sequence[Submitted]) -> Scores:
        """Scores of all submitted completions, one after the other.

        A function that is no grader is called once, with all of them in order, because it may compare them. A
        completion is valid if some function of weight says something about it, no function failed, and no grader and
        not the function that says ``correct`` stays silent: a failure must not look like a reward of the others.
        """
        batch = Batch(
            [problem for part in submitted for problem in part.problems],
            [text for part in submitted for text in part.completions],
            [ids for part in submitted for ids in part.completion_ids],
            self._max_completion_length,
        )
        # What runs elsewhere is started first; what blocks this process comes last.
        started = {f.name: f.start(batch) for f in sorted(self._others, key=lambda f: f.blocks)}
        grades = {f.name: [g for part in submitted for g in part.grades[f.name].result()] for f in self._graded}
        outcomes = {name: future.result() for name, future in started.items()}
        parts = {
            f.name: f.worth(grades[f.name])
            if isinstance(f, GradedReward)
            else _numbers(outcomes[f.name], len(batch.problems))
            for f in self.functions
        }
        return self._combined(parts, grades, outcomes)

    def close(self) -> None:
        """Stops all workers."""
        for function in self.functions:
            function.close()

    @property
    def _graded(self) -> list[GradedReward]:
        return [function for function in self.functions if isinstance(function, GradedReward)]

    @property
    def _others(self) -> list[FunctionReward]:
        return [function for function in self.functions if isinstance(function, FunctionReward)]

    def _combined(
        self, parts: Mapping[str, np.ndarray], grades: Mapping[str, list[Grade]], outcomes: Mapping[str, Outcome]
    ) -> Scores:
        count = len(parts[self._correct])
        rewards, spoken = np.zeros(count), np.zeros(count, bool)
        for weight, part in zip(self.weights, parts.values(), strict=True):
            silent = np.isnan(part)
            rewards = rewards + weight * np.where(silent, 0.0, part)
            spoken |= ~silent & (weight != 0)
        needed = [parts[name] for name in {*grades, self._correct}]
        valid = spoken & ~np.isnan(needed).any(axis=0)
        verdicts = grades[self._correct] if self._threshold is None else self._by_threshold(parts[self._correct])
        correct = np.array([grade.verdict is Verdict.CORRECT for grade in verdicts], bool)
        for name, outcome in outcomes.items():
            if outcome.status != "done":
                self._report(name, outcome)
                valid = np.zeros(count, bool)
                failed, detail = Verdict(outcome.status), f"{name}: {outcome.detail}"
                verdicts = [Grade(failed, grade.answer, grade.grader, detail) for grade in verdicts]
        return Scores(np.where(valid, rewards, 0.0), valid, correct, verdicts, parts)

    def _by_threshold(self, part: np.ndarray) -> list[Grade]:
        silent = Grade(Verdict.GOLD_UNPARSEABLE, None, self.name, f"{self._correct} says nothing")
        said = [Grade(verdict, None, self.name) for verdict in (Verdict.WRONG, Verdict.CORRECT)]
        return [silent if np.isnan(value) else said[int(value >= self._threshold)] for value in part]

    def _report(self, name: str, outcome: Outcome) -> None:
        """Says once what is wrong with a function, because a run without valid completions learns nothing."""
        if (name, outcome.detail) not in self._reported:
            self._reported.add((name, outcome.detail))
            _logger.warning(
                "reward function %s: %s: %s; its completions are invalid", name, outcome.status, outcome.detail
            )


def make_rewards(
    config: RewardConfig, data: DataConfig, max_completion_length: int, *, prompt_opens_thinking: bool = False
) -> Rewards:
    """The rewards that a configuration names; close them. Workers start when they are first needed.

    Args:
        config: Functions, weights, and which of them says ``correct``.
        data: Whose source decides what ``auto`` is.
        max_completion_length: Tokens that a completion may have.
        prompt_opens_thinking: Prompts end in ``<think>``; a grader that asks for it is told so, unless ``args`` say it.

    Raises:
        ExtraError: an unknown function, argument or verdict; two functions of one name; nothing that says ``correct``.
    """
    entries = [entry.model_copy(update={"function": _resolved(entry.function, data)}) for entry in config.functions]
    functions = [_make(entry, prompt_opens_thinking) for entry in entries]
    names = [function.name for function in functions]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise ExtraError(
            f"{KEY}: two functions are called {sorted(repeated)[0]!r}; give one another name with "
            "@extra_jax.reward.door.reward(name=...)"
        )
    correct, threshold = _correct(config, data, functions)
    return Rewards(functions, [entry.weight for entry in entries], correct, threshold, max_completion_length)


def rewards_identity(config: RewardConfig, data: DataConfig) -> str:
    """Equal for two sections of data whose ``Rewards`` are the same."""
    return json.dumps([_resolved(entry.function, data) for entry in config.functions])


def _resolved(name: str, data: DataConfig) -> str:
    """``auto`` is the grader of a generated task, and ``math`` for everything else."""
    if name != "auto":
        return name
    if data.source.startswith(gym.PREFIX):
        return "reasoning_gym"
    return data.source if data.source in _TASKS else "math"


def _make(entry: RewardFunction, prompt_opens_thinking: bool) -> GradedReward | FunctionReward:
    function = find(entry.function)
    name = reward_name(function)
    if is_grader(function):
        if entry.in_process or entry.timeout is not None:
            raise ExtraError(f"{KEY}: in_process and timeout have no effect on the grader {name}; remove them")
        opened = prompt_opens_thinking and "prompt_opens_thinking" in inspect.signature(function).parameters
        return GradedReward(name, function, ({"prompt_opens_thinking": True} if opened else {}) | entry.args)
    spec = None if entry.in_process else worker_spec(function, entry.function)
    return FunctionReward(name, function, spec, entry.args, entry.timeout or TIMEOUT)


def _correct(
    config: RewardConfig, data: DataConfig, functions: Sequence[GradedReward | FunctionReward]
) -> tuple[str, float | None]:
    """Name of the function that says ``correct``, and its threshold."""
    graders = [function.name for function in functions if isinstance(function, GradedReward)]
    if config.correct is None:
        if graders:
            return graders[0], None
        raise ExtraError(
            "reward.correct: no function of reward.functions is a grader, so that nothing says which completions are "
            f"correct. Set reward.correct to {{function: {functions[0].name}, threshold: ...}}, or add a grader such "
            "as {function: math, weight: 0} to reward.functions"
        )
    wanted, threshold = _resolved(config.correct.function, data), config.correct.threshold
    name = wanted if wanted in [f.name for f in functions] else reward_name(find(wanted))
    if name not in [function.name for function in functions]:
        raise ExtraError(
            f"reward.correct: {name} is not in reward.functions; add {{function: {wanted}, weight: 0}} there"
        )
    if name in graders and threshold is not None:
        raise ExtraError(
            f"reward.correct: {name} is a grader, whose verdict says what is correct; remove the threshold"
        )
    if name not in graders and threshold is None:
        raise ExtraError(f"reward.correct: {name} is no grader; give {{function: {wanted}, threshold: ...}}")
    return name, threshold


def _numbers(outcome: Outcome, count: int) -> np.ndarray:
    """``[R]`` f64, NaN where a function said nothing or failed."""
    values: Sequence[Any] = outcome.value if outcome.status == "done" else [None] * count
    return np.array([np.nan if value is None else value for value in values], np.float64)
