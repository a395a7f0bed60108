"""What is wrong with a file of problems: every finding with its row."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from extra_jax.data.contamination import answer_text, normal_form, shingles
from extra_jax.data.problem import Problem, prompt_text
from extra_jax.data.rows import Row, RowError, to_problem
from extra_jax.data.sources import read_rows
from extra_jax.data.tokenizer import Tokenizer
from extra_jax.errors import ExtraError

KINDS: Mapping[str, str] = {
    "unreadable": "no problem can be made of the row",
    "empty_answer": "there is no answer",
    "duplicate_uid": "another row has this identity",
    "unparseable_gold": "the grader cannot read the answer",
    "unearnable": "a right answer, written as the prompt asks, is not judged correct",
    "duplicate": "the same problem as an earlier row",
    "conflict": "the same problem as an earlier row, with another answer",
    "leaked": "the prompt gives the answer away",
    "long_prompt": "the prompt has more tokens than are allowed",
}
"""Kinds of finding and what they mean."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with one row.

    Attributes:
        row: Number of the row, from 1 (for JSONL the line).
        kind: One of ``KINDS``.
        detail: What exactly, in a few words.
    """

    row: int
    kind: str
    detail: str


@dataclass(frozen=True)
class Duplicates:
    """Problems that occur more than once: equal in their ``normal_form``.

    Attributes:
        groups: Problems with more than one row.
        surplus: Rows beyond the first of each.
        differing: Groups whose answers differ as text (blanks and ``$`` aside).
        conflicting: Those among them whose answers the grader tells apart, too.
    """

    groups: int = 0
    surplus: int = 0
    differing: int = 0
    conflicting: int = 0


@dataclass(frozen=True)
class Report:
    """``findings`` by row, of a file with ``rows`` rows."""

    rows: int
    findings: tuple[Finding, ...]
    duplicates: Duplicates

    @property
    def counts(self) -> Counter[str]:
        """Findings by kind."""
        return Counter(finding.kind for finding in self.findings)


def lint(
    path: str,
    *,
    columns: Mapping[str, str] | None = None,
    gold_problems: Callable[[Sequence[str]], list[str]] | None = None,
    form_problems: Callable[[Sequence[Problem]], list[str]] | None = None,
    same_answers: Callable[[Sequence[tuple[str, str]]], list[bool]] | None = None,
    tokenizer: Tokenizer | None = None,
    max_prompt_length: int = 0,
) -> Report:
    """Checks every row of a JSONL or Parquet file.

    Args:
        columns: Other column names, see ``rows.COLUMNS``.
        gold_problems: Says of each answer why the grader cannot read it, ``""`` where it can; default: not checked.
        form_problems: Says of each problem why a right answer in the form that its prompt asks for is not judged
            correct; default: not checked.
        same_answers: Whether the grader takes two answers for one; default: equality as text.
        tokenizer: Measures prompts; default: not checked.
        max_prompt_length: Tokens that a prompt may have, template included.

    Raises:
        ExtraError: No such file, one without rows, or JSON that is broken.
    """
    findings: list[Finding] = []
    problems: dict[int, Problem] = {}
    first: dict[str, int] = {}
    total = 0
    for row in read_rows(path):
        total += 1
        try:
            problem = to_problem(row, PurePosixPath(path).stem, columns)
        except RowError as error:
            findings.append(_unreadable(row, error))
            continue
        problems[row.number] = problem
        if (earlier := first.setdefault(problem.uid, row.number)) != row.number:
            findings.append(Finding(row.number, "duplicate_uid", f"{problem.uid!r} is row {earlier}, too"))
        if leak := leaked(problem):
            findings.append(Finding(row.number, "leaked", leak))
        if tokenizer and (tokens := len(tokenizer.encode_prompt(problem.prompt))) > max_prompt_length:
            findings.append(Finding(row.number, "long_prompt", f"{tokens} tokens; {max_prompt_length} are allowed"))
    if not total:
        raise ExtraError(f"{path}: holds no rows. Write it again.")
    every = list(problems.values())
    unread = gold_problems([problem.answer for problem in every]) if gold_problems else [""] * len(every)
    unlike = form_problems(every) if form_problems else [""] * len(every)
    for (number, problem), gold, form in zip(problems.items(), unread, unlike, strict=True):
        if gold:
            findings.append(Finding(number, "unparseable_gold", f"{_short(problem.answer)}: {gold}"))
        elif form:
            findings.append(Finding(number, "unearnable", form))
    repeated, duplicates = _duplicates(problems, same_answers or _equal_texts)
    findings = sorted([*findings, *repeated], key=lambda finding: finding.row)
    return Report(total, tuple(findings), duplicates)


def leaked(problem: Problem) -> str:
    """How the prompt gives its answer away, or ``""``.

    It holds the answer in a box or after ``####`` or ``answer is`` / ``answer:``, or it holds the solution. The bare
    answer is not looked for: a small number stands in most problems.
    """
    text, answer = prompt_text(problem.prompt, only="user"), problem.answer.strip()
    plain, lowered = answer_text(text), answer.lower()
    if f"\\boxed{{{answer_text(answer)}}}" in plain:
        return "it holds the answer in a box"
    for mark in ("####", "answer is", "answer:"):
        for after in text.lower().split(mark)[1:]:
            given = after.lstrip(" :$*").splitlines()[0] if after.strip(" :$*\n") else ""
            if given.rstrip(" .$*") == lowered:
                return f"it holds the answer after {mark!r}"
    if problem.solution is not None:
        solution = shingles(problem.solution)
        if solution and solution <= shingles(text):
            return "it holds the solution"
    return ""


def _unreadable(row: Row, error: RowError) -> Finding:
    answer = error.key in ("answer", "reward_model.ground_truth")
    kind = "empty_answer" if answer and error.fault in ("empty", "missing") else "unreadable"
    return Finding(row.number, kind, f"key {error.key!r}: {error.fault}")


def _duplicates(
    problems: Mapping[int, Problem], same_answers: Callable[[Sequence[tuple[str, str]]], list[bool]]
) -> tuple[list[Finding], Duplicates]:
    by_form: dict[str, list[int]] = defaultdict(list)
    for number, problem in problems.items():
        by_form[normal_form(prompt_text(problem.prompt, only="user"))].append(number)
    groups = [numbers for numbers in by_form.values() if len(numbers) > 1]
    pairs = [(numbers[0], number) for numbers in groups for number in numbers[1:]]
    differing = [pair for pair in pairs if not _equal_texts([_answers(problems, pair)])[0]]
    equal = same_answers([_answers(problems, pair) for pair in differing])
    conflicting = {pair for pair, same in zip(differing, equal, strict=True) if not same}
    findings = []
    for pair in pairs:
        one, other = map(_short, _answers(problems, pair))
        if pair in conflicting:
            findings.append(Finding(pair[1], "conflict", f"row {pair[0]} has the answer {one}, this one {other}"))
        else:
            rewritten = f"; its answer is written {one} there, {other} here" if pair in differing else ""
            findings.append(Finding(pair[1], "duplicate", f"of row {pair[0]}{rewritten}"))
    return findings, Duplicates(
        len(groups), len(pairs), len({pair[0] for pair in differing}), len({pair[0] for pair in conflicting})
    )


def _answers(problems: Mapping[int, Problem], pair: tuple[int, int]) -> tuple[str, str]:
    return problems[pair[0]].answer, problems[pair[1]].answer


def _equal_texts(pairs: Sequence[tuple[str, str]]) -> list[bool]:
    return [answer_text(one) == answer_text(other) for one, other in pairs]


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
