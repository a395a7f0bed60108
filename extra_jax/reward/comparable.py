"""Graders that others publish numbers with, so that ours can be compared with theirs.

``dapo_strict_box``: the strict mode of verl's ``math_dapo``, with which ExTra was trained: the last box in the last 100
characters, equal as it stands. ``math_verify``: math-verify on the whole response against the re-boxed gold. Their
weaknesses are part of them; train and report with ``math``.
"""

from collections.abc import Sequence
from importlib.metadata import version

from extra_jax.answers.symbolic import library
from extra_jax.data.problem import Problem
from extra_jax.reward.verdict import Grade, Grader, Verdict
from extra_jax.reward.workers import Limits, PendingGrades, WorkerPool

_BOX_TAIL = 100


def grade_dapo_strict_box(gold: str, completion: str) -> Grade:
    """Content of the last box in the last 100 characters, equal to the gold character for character."""
    answer = _last_box(completion[-_BOX_TAIL:])
    if answer is None:
        return Grade(Verdict.NO_ANSWER, None, "dapo_strict_box/1", "no complete box in the last 100 characters")
    return Grade(Verdict.CORRECT if answer == gold else Verdict.WRONG, answer, "dapo_strict_box/1")


def _last_box(text: str) -> str | None:
    r"""Content of the last ``\boxed{``; ``None`` when it does not close, whatever came before."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] == "{") - (text[place] == "}")
        if text[place] == "}" and depth == 0:
            return text[start + len("\\boxed{") : place]
    return None


def math_verify_task(gold: str, completion: str) -> tuple[str, str | None, str]:
    """Verdict, answer and detail of plain math-verify; the task of a worker, as it may never end."""
    math_verify = library()
    expected = math_verify.parse(rf"\boxed{{{gold}}}", parsing_timeout=None)
    if not expected:
        return Verdict.GOLD_UNPARSEABLE.value, None, "math-verify reads nothing in the gold"
    got = math_verify.parse(completion, parsing_timeout=None)
    if not got:
        return Verdict.NO_ANSWER.value, None, "math-verify finds no answer"
    same = math_verify.verify(expected, got, timeout_seconds=None)
    return (Verdict.CORRECT if same else Verdict.WRONG).value, str(got[0])[:200], ""


class StrictBoxGrader(Grader):
    """``grade_dapo_strict_box`` as a ``Grader``; needs no workers."""

    name = "dapo_strict_box/1"

    def grade(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Grade]:
        """Grades in the order of the input."""
        return [grade_dapo_strict_box(p.answer, text) for p, text in zip(problems, completions, strict=True)]

    def same_answers(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Whether they are equal as text, which is how it compares with the gold."""
        return [one == other for one, other in pairs]


class MathVerifyGrader(Grader):
    """Plain math-verify on a ``WorkerPool``; a ``Grader`` whose name carries the version of the library."""

    def __init__(self, *, workers: int = 2, limits: Limits | None = None) -> None:
        self.name = f"math_verify_plain/{version('math-verify')}"
        self._pool = WorkerPool("extra_jax.reward.comparable:math_verify_task", workers=workers, limits=limits)

    def submit(self, problems: Sequence[Problem], completions: Sequence[str]) -> PendingGrades:
        """Start grading and return at once."""
        pairs = zip(problems, completions, strict=True)
        return PendingGrades(self.name, [(None, self._pool.submit(problem.answer, text)) for problem, text in pairs])

    def same_answers(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Whether math-verify printed them alike."""
        return [one == other for one, other in pairs]

    def close(self) -> None:
        """Stop the workers."""
        self._pool.close()
