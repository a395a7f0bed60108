"""Grades chain completions by the final result, and counts the reference steps that a text establishes."""

import re
from collections.abc import Sequence

from extra_jax.data.problem import Problem
from extra_jax.reward.verdict import Finished, Grade, Verdict

# The length bound keeps a run-away completion cheap to grade.
_INTEGER = r"-?[0-9]{1,18}"
_STEP = re.compile(rf"{_INTEGER}[-+*]{_INTEGER}=({_INTEGER})")


class ChainGrader:
    """`Grader` for `extra_jax.data.tasks.chain`: only the result of the last line counts.

    ``correct``: the last line is a step, and its right-hand side is the answer; errors above it do not matter.
    ``wrong``: it is another number. ``no_answer``: the last line is no finished step, or there is none.
    ``gold_unparseable``: the problem's answer is no integer.
    """

    name = "chain/1"

    def grade(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Grade]:
        """One grade per completion, in order; both sequences have the same length."""
        return [self._grade(problem, text) for problem, text in zip(problems, completions, strict=True)]

    def submit(self, problems: Sequence[Problem], completions: Sequence[str]) -> Finished:
        """Grades at once: no text is slow to grade."""
        return Finished(self.grade(problems, completions))

    def same_answers(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Whether both are the same integer."""
        return [int(one) == int(other) for one, other in pairs]

    def close(self) -> None:
        """Nothing to release."""

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


def count_established_steps(problem: Problem, text: str) -> int:
    """How many steps of the reference solution ``text`` establishes, ``0 .. number of steps``.

    A reference step is established by a line that states it exactly; lines have to come in the order of the
    reference, and other lines (wrong steps, repetitions) may stand between. Formally it is the length of the
    longest common subsequence of lines, so further lines never lower the count.

    Args:
        problem: A chain; its ``solution`` is the reference.
        text: A completion or a part of one, cut anywhere. An unfinished last line counts only if it happens
            to state a whole step already.

    Raises:
        ValueError: The problem has no reference solution.
    """
    if problem.solution is None:
        raise ValueError(f"problem {problem.uid!r} has no reference solution")
    reference = problem.solution.splitlines()
    wanted = set(reference)
    # best[k]: longest match of the lines read so far within the first k reference steps.
    best = [0] * (len(reference) + 1)
    for line in text.split("\n"):
        if line not in wanted:
            continue
        diagonal = 0
        for k, step in enumerate(reference, start=1):
            diagonal, best[k] = best[k], max(best[k - 1], diagonal + 1 if line == step else best[k])
    return best[-1]
