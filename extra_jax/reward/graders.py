"""Graders as reward functions: a number for each verdict, and what says ``correct``."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from extra_jax.doors import did_you_mean, refuse_unknown, takes_any
from extra_jax.errors import ExtraError
from extra_jax.reward.chain import ChainGrader
from extra_jax.reward.comparable import MathVerifyGrader, StrictBoxGrader
from extra_jax.reward.countdown import CountdownGrader
from extra_jax.reward.door import KEY, Reward, reward
from extra_jax.reward.gym import ReasoningGymGrader
from extra_jax.reward.math import Options
from extra_jax.reward.verdict import Grade, Grader, Verdict
from extra_jax.reward.workers import MathGrader

DEFAULT_VALUES: dict[str, float | None] = {
    Verdict.CORRECT: 1.0, Verdict.WRONG: 0.0, Verdict.NO_ANSWER: 0.0,
    Verdict.GOLD_UNPARSEABLE: None, Verdict.TIMEOUT: None, Verdict.ERROR: None,
}  # fmt: skip
"""What a verdict is worth; ``None``: it says nothing about the policy."""


def _maths(strict_thinking: bool = False, prompt_opens_thinking: bool = False) -> MathGrader:
    return MathGrader(options=Options(strict_thinking, prompt_opens_thinking))


def _maths_strict(prompt_opens_thinking: bool = False) -> MathGrader:
    return _maths(True, prompt_opens_thinking)


GRADERS: dict[str, Reward] = {
    "chain": ChainGrader,
    "countdown": CountdownGrader,
    "dapo_strict_box": StrictBoxGrader,
    "math": _maths,
    "math_strict_thinking": _maths_strict,
    "math_verify": MathVerifyGrader,
    "reasoning_gym": ReasoningGymGrader,
}
"""What makes a grader of the package from its arguments."""


def is_grader(function: Reward) -> bool:
    """Whether what a name stands for makes a ``Grader`` that also says ``correct``."""
    return function in GRADERS.values() or (inspect.isclass(function) and hasattr(function, "submit"))


class GradedReward:
    """A grader as a reward: its verdicts and what each of them is worth.

    Args:
        name: In metrics and records.
        make: Makes the grader.
        args: Arguments of ``make``, and ``values``: verdict -> number, or ``None`` where it says nothing about the
            policy; a verdict that is not named keeps its own (``DEFAULT_VALUES``).

    Raises:
        ExtraError: an argument or a verdict that does not exist.
    """

    def __init__(self, name: str, make: Reward, args: Mapping[str, Any]) -> None:
        own = {key: value for key, value in args.items() if key != "values"}
        parameters = inspect.signature(make).parameters
        if not takes_any(parameters):
            refuse_unknown(own, parameters, f"{KEY}: args of {name}")
        self.name, self._make, self._args = name, make, own
        self.values = _values(name, args.get("values") or {})
        self._grader: Grader | None = None

    @property
    def grader(self) -> Grader:
        """Made when it is first used, because its workers are processes."""
        if self._grader is None:
            self._grader = self._make(**self._args)
        return self._grader

    def worth(self, grades: Sequence[Grade]) -> np.ndarray:
        """``[R]`` f64, NaN where a verdict says nothing about the policy."""
        values = (self.values.get(g.verdict, DEFAULT_VALUES[g.verdict] if g.score is None else g.score) for g in grades)
        return np.array([np.nan if value is None else value for value in values], np.float64)

    def close(self) -> None:
        """Stops the workers."""
        if self._grader is not None:
            self._grader.close()


def _values(name: str, given: Any) -> dict[str, float | None]:
    if not isinstance(given, Mapping):
        raise ExtraError(f"{KEY}: values of {name} is {given!r}; give a number for verdicts, e.g. {{wrong: -1}}")
    for verdict, value in given.items():
        if verdict not in list(Verdict):
            hint = did_you_mean(str(verdict), Verdict) or f"there are {', '.join(Verdict)}"
            raise ExtraError(f"{KEY}: values of {name}: no verdict is called {str(verdict)!r}; {hint}")
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ExtraError(
                f"{KEY}: values of {name}: {verdict} is worth {value!r}; give a number, or null for nothing"
            )
    return {str(verdict): None if value is None else float(value) for verdict, value in given.items()}


for _name, _make in GRADERS.items():
    reward(name=_name)(_make)
