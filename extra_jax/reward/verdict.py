"""What a grader says about one completion."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from extra_jax.data.problem import Problem


class Verdict(StrEnum):
    """Outcome of grading; a failure of the grader is never silently a zero (design, decision 9)."""

    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"
    GOLD_UNPARSEABLE = "gold_unparseable"
    TIMEOUT = "timeout"
    ERROR = "error"


@dataclass(frozen=True)
class Grade:
    """Verdict of one completion, what was taken as its answer, and who graded it.

    Attributes:
        verdict: The outcome.
        answer: The text that the grader took as the final answer; ``None`` when it found none.
        grader: Name and version of the grader, e.g. ``"math/1"``; stamped into every record.
        detail: One short sentence on why, for timeouts, errors and refused answers.
    """

    verdict: Verdict
    answer: str | None
    grader: str
    detail: str = ""


class Grader(Protocol):
    """Grades completions; order of the result follows the order of the input."""

    name: str

    def grade(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Grade]: ...

    def close(self) -> None: ...
