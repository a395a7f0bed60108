"""Grades chain completions by the final result."""

import re
from collections.abc import Sequence

from extra_jax.data.problem import Problem
from extra_jax.reward.verdict import Grade, Grader, Verdict

# The length bound keeps a run-away completion cheap to grade.
_INTEGER = r"-?[0-9]{1,18}"
_STEP = re.compile(rf"{_INTEGER}[-+*]{_INTEGER}=({_INTEGER})")


class ChainGrader(Grader):
    """`Grader` for `extra_jax.data.tasks.chain`: only the result of the last line counts.

    ``correct``: the last line is a step, and its right-hand side is the answer; errors above it do not matter.
    ``wrong``: it is another number. ``no_answer``: the last line is no finished step, or there is none.
    ``gold_unparseable``: the problem's answer is no integer.
    """

    name = "chain/1"

    def grade(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Grade]:
        return [self._grade(problem, text) for problem, text in zip(problems, completions, strict=True)]

    def same_answers(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Whether both are the same integer."""
        return [int(one) == int(other) for one, other in pairs]

    def _grade(self, problem: Problem, completion: str) -> Grade:
        if not re.fullmatch(_INTEGER, problem.answer):
            detail = f"problem {problem.uid!r} has the answer {problem.answer[:40]!r}, which is no integer"
            return Grade(Verdict.GOLD_UNPARSEABLE, None, self.name, detail)
        last_line = completion.rstrip("\n").rpartition("\n")[2]
        step = _STEP.fullmatch(last_line)
        if step is None:
            detail = f"the last line is no finished step: {last_line[:40]!r}" if last_line.strip() else ""
            return Grade(Verdict.NO_ANSWER, None, self.name, detail)
        verdict = Verdict.CORRECT if int(step[1]) == int(problem.answer) else Verdict.WRONG
        return Grade(verdict, step[1], self.name)
