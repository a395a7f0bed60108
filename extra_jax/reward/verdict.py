"""What a grader says about one completion."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

from extra_jax.answers.verdict import Verdict
from extra_jax.data.problem import Problem

__all__ = ["ComparesAnswers", "Finished", "Grade", "Grader", "Pending", "Verdict"]


@dataclass(frozen=True)
class Grade:
    """Verdict of one completion, what was taken as its answer, and who graded it.

    Attributes:
        verdict: The outcome.
        answer: The text that the grader took as the final answer; ``None`` when it found none.
        grader: Name and version of the grader, e.g. ``"math/2"``; stamped into every record.
        detail: One short sentence on why, for timeouts, errors and refused answers.
        score: What the answer is worth to a grader that gives partial credit; default: what its verdict is worth.
    """

    verdict: Verdict
    answer: str | None
    grader: str
    detail: str = ""
    score: float | None = None


class Pending(Protocol):
    """Grades that are being worked on."""

    def result(self) -> list[Grade]:
        """Waits for the grades, which are in the order of the input."""
        ...


@dataclass(frozen=True)
class Finished:
    """``Pending`` grades of a grader that needs no waiting."""

    grades: list[Grade]

    def result(self) -> list[Grade]:
        return self.grades


class Grader(Protocol):
    """Grades completions. A class that inherits from it writes ``grade``, or ``submit`` where grading is slow."""

    name: str

    def submit(self, problems: Sequence[Problem], completions: Sequence[str]) -> Pending:
        """Starts grading and returns at once, so that it overlaps with generation."""
        return Finished(self.grade(problems, completions))

    def grade(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Grade]:
        """One grade per completion, in order; both sequences have the same length."""
        return self.submit(problems, completions).result()

    def close(self) -> None:
        """Stops what grades; nothing where that needs no process."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


@runtime_checkable
class ComparesAnswers(Protocol):
    """A grader for whose problems one answer is right, so that samples can vote; countdown has many right answers."""

    def same_answers(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Whether the two answers of each pair (``Grade.answer``) are one answer."""
        ...
