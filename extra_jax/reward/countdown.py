"""Grades countdown completions line by line; any correct solution counts, not only the reference."""

import re
from collections import Counter
from collections.abc import Sequence

from extra_jax.data.problem import Problem
from extra_jax.data.tasks.countdown import numbers_and_target
from extra_jax.errors import ExtraError
from extra_jax.reward.verdict import Grade, Grader, Verdict

# Positive integers without leading zeros; the length bound keeps a run-away completion cheap to grade.
_NUMBER = r"([1-9][0-9]{0,17})"
_STEP = re.compile(_NUMBER + r"([-+*/])" + _NUMBER + "=" + _NUMBER)


class CountdownGrader(Grader):
    """`Grader` for `extra_jax.data.tasks.countdown`.

    ``correct``: every line is a legal step and the last result is the target. ``no_answer``: the completion
    is blank. ``wrong``: anything else, a malformed or unfinished line before or after the solution included.
    ``gold_unparseable``: the problem carries no numbers and target. The answer is the last line's result.
    """

    name = "countdown/1"

    def grade(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Grade]:
        return [self._grade(problem, text) for problem, text in zip(problems, completions, strict=True)]

    def _grade(self, problem: Problem, completion: str) -> Grade:
        try:
            numbers, target = numbers_and_target(problem)
        except ExtraError as error:
            return Grade(Verdict.GOLD_UNPARSEABLE, None, self.name, str(error))
        if not completion.strip():
            return Grade(Verdict.NO_ANSWER, None, self.name)
        lines = completion.removesuffix("\n").split("\n")
        last = _STEP.fullmatch(lines[-1])
        answer = last[4] if last else None
        fault = find_fault(numbers, target, lines)
        return Grade(Verdict.WRONG if fault else Verdict.CORRECT, answer, self.name, fault)


def find_fault(numbers: Sequence[int], target: int, lines: Sequence[str]) -> str:
    """What is wrong with a solution, in one short sentence; empty when nothing is.

    Args:
        numbers: The given numbers; each may be used once.
        target: What the last line has to reach.
        lines: The steps, one a line, without newlines; at least one.
    """
    available = Counter(numbers)
    result = None
    for number, line in enumerate(lines, start=1):
        step = _STEP.fullmatch(line)
        if step is None:
            return f"line {number} is no step: {line[:40]!r}"
        left, right, result = int(step[1]), int(step[3]), int(step[4])
        for operand in (left, right):
            if available[operand] == 0:
                return f"line {number}: {operand} is not available"
            available[operand] -= 1
        if not _holds(left, step[2], right, result):
            return f"line {number}: {line[:40]} does not hold"
        available[result] += 1
    return "" if result == target else f"the last result is {result}, not {target}"


def _holds(left: int, op: str, right: int, result: int) -> bool:
    """Whether the step is right; ``result`` is positive by its syntax, and division has to be exact."""
    return {
        "+": left + right == result,
        "-": left - right == result,
        "*": left * right == result,
        "/": right * result == left,
    }[op]
