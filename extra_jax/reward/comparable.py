"""Graders that others publish numbers with, so that ours can be compared with theirs.

``dapo``: the rule of verl's ``math_dapo`` (DAPO, AIME): last 300 characters, last ``Answer:`` line, normalised as in
Minerva (Lewkowycz et al. 2022, appendix D.1), equal as strings. ``dapo_strict_box``: its strict mode, with which ExTra
was trained: last box in the last 100 of these characters, equal as it stands. ``math_verify_plain``: math-verify on the
whole response against the re-boxed gold. Their weaknesses are part of them; train and report with ``math``.
"""

import re
from collections.abc import Sequence
from importlib.metadata import version
from typing import Self

from extra_jax.answers.symbolic import library
from extra_jax.answers.vocabulary import names
from extra_jax.data.problem import Problem
from extra_jax.reward.verdict import Finished, Grade, Verdict
from extra_jax.reward.workers import Limits, PendingGrades, WorkerPool

_TAIL, _BOX_TAIL = 300, 100
_ANSWER_LINE = re.compile(r"answer\s*:\s*([^\n]+)", re.IGNORECASE)

# Minerva's lists. Order matters: "an " goes before "a ", blanks before the words.
_REPLACED = (
    ("an ", ""), ("a ", ""), (".$", "$"), ("\\$", ""), ("\\ ", ""), (" ", ""), ("mbox", "text"),
    (",\\text{and}", ","), ("\\text{and}", ","), ("\\text{m}", "\\text{}"),
)  # fmt: skip
_REMOVED_WORDS = names(
    "square ways integers dollars mph inches hours km units \\ldots sue points feet minutes digits cents degrees cm gm "
    "pounds meters meals edges students childrentickets multiples"
)
_REMOVED_MARKS = (
    "\\text{s}", "\\text{.}", "\\text{\ns}", "\\text{}^2", "\\text{}^3", "\\text{\n}", "\\text{}", "\\mathrm{th}",
    "^\\circ", "^{\\circ}", "\\;", ",\\!", "{,}", '"', "\\dots",
)  # fmt: skip
_UNWRAPPED = (r"\\text\{(.*?)\}", r"\\textbf\{(.*?)\}", r"\\overline\{(.*?)\}", r"\\boxed\{(.*)\}")


def minerva_normal(answer: str) -> str:
    """Minerva's normal form of a final answer: the right side of ``=`` without units, blanks and layout."""
    answer = answer.rsplit("=", 1)[-1]
    for old, new in _REPLACED:
        answer = answer.replace(old, new)
    for gone in (*_REMOVED_WORDS, *_REMOVED_MARKS):
        answer = answer.replace(gone, "")
    answer = re.sub(r".*?\$(.*?)\$.*", r"$\1$", answer)
    for pattern in _UNWRAPPED:
        answer = re.sub(pattern, r"\1", answer)
    answer = re.sub(r"frac([^{])(.)", r"frac{\1}{\2}", answer)
    answer = re.sub(r"sqrt([^{])", r"sqrt{\1}", answer).replace("$", "")
    digits = answer.replace(",", "")
    return (digits if digits.isdigit() else answer).strip()


def grade_dapo(gold: str, completion: str) -> Grade:
    """``Answer:`` line of the last 300 characters against the gold, both in Minerva's normal form."""
    lines = _ANSWER_LINE.findall(completion[-_TAIL:])
    if not lines:
        return Grade(Verdict.NO_ANSWER, None, "dapo/1", "no line 'Answer:' in the last 300 characters")
    same = minerva_normal(lines[-1]) == minerva_normal(gold)
    return Grade(Verdict.CORRECT if same else Verdict.WRONG, lines[-1], "dapo/1")


def grade_dapo_strict_box(gold: str, completion: str) -> Grade:
    """Content of the last box in the last 100 characters, equal to the gold character for character."""
    tail = completion[-_TAIL:][-_BOX_TAIL:]
    answer = _last_box(tail)
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


class DapoGrader:
    """``grade_dapo`` or ``grade_dapo_strict_box`` as a ``Grader``; needs no workers."""

    def __init__(self, *, strict_box: bool = False) -> None:
        self._grade = grade_dapo_strict_box if strict_box else grade_dapo
        self._normal = str if strict_box else minerva_normal
        self.name = "dapo_strict_box/1" if strict_box else "dapo/1"

    def grade(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Grade]:
        """Grades in the order of the input."""
        return [self._grade(problem.answer, text) for problem, text in zip(problems, completions, strict=True)]

    def submit(self, problems: Sequence[Problem], completions: Sequence[str]) -> Finished:
        """Grades at once: no text is slow to grade."""
        return Finished(self.grade(problems, completions))

    def same_answers(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Whether the rule that compares with the gold calls them equal."""
        return [self._normal(one) == self._normal(other) for one, other in pairs]

    def close(self) -> None:
        """Nothing to close."""


class MathVerifyGrader:
    """Plain math-verify on a ``WorkerPool``; a ``Grader`` whose name carries the version of the library."""

    def __init__(self, *, workers: int = 2, limits: Limits | None = None) -> None:
        self.name = f"math_verify_plain/{version('math-verify')}"
        self._pool = WorkerPool("extra_jax.reward.comparable:math_verify_task", workers=workers, limits=limits)

    def submit(self, problems: Sequence[Problem], completions: Sequence[str]) -> PendingGrades:
        """Start grading and return at once."""
        pairs = zip(problems, completions, strict=True)
        return PendingGrades(self.name, [(None, self._pool.submit(problem.answer, text)) for problem, text in pairs])

    def grade(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Grade]:
        """Grades in the order of the input."""
        return self.submit(problems, completions).result()

    def same_answers(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Whether math-verify printed them alike."""
        return [one == other for one, other in pairs]

    def close(self) -> None:
        """Stop the workers."""
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
