"""Grading while others still decode."""

from collections.abc import Sequence

from extra_jax.data.problem import Problem
from extra_jax.reward.verdict import Grade, Grader, Pending


class OverlappedGrading:
    """Collects completions as they finish and hands each to the grader at once.

    Args:
        grader: whose ``submit`` returns before the work is done.
        problems: ``[R]``, the problem of each completion.
    """

    def __init__(self, grader: Grader, problems: Sequence[Problem]):
        self._grader, self._problems = grader, problems
        self._pending: list[tuple[Sequence[int], Pending]] = []
        self._missing = set(range(len(problems)))

    def add(self, rows: Sequence[int], texts: Sequence[str]) -> None:
        """Starts grading the completions of ``rows``; returns at once.

        Raises:
            ValueError: a row that does not exist or was given before.
        """
        rows = [int(row) for row in rows]
        if len(rows) != len(texts) or len(set(rows)) != len(rows) or not self._missing.issuperset(rows):
            raise ValueError(f"rows {rows}: each row is graded once, with one text")
        self._missing.difference_update(rows)
        self._pending.append((rows, self._grader.submit([self._problems[row] for row in rows], texts)))

    def result(self) -> list[Grade]:
        """``[R]`` grades in the order of the rows; waits for those that are not there yet.

        Raises:
            ValueError: rows that were never added.
        """
        if self._missing:
            raise ValueError(f"{len(self._missing)} of {len(self._problems)} completions were never added")
        by_row = {
            row: grade for rows, pending in self._pending for row, grade in zip(rows, pending.result(), strict=True)
        }
        return [by_row[row] for row in range(len(self._problems))]
