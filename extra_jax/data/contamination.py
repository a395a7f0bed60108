"""Which training rows are in a benchmark, exactly or nearly.

*Exact*: the texts have the same ``normal_form``: equal but for layout commands, case, blanks and punctuation.
*Near*: their 8-word shingles (``shingles``) have a Jaccard similarity of at least 0.5, or the shorter text has at least
8 shingles and 80 % of them are in the other. Paraphrases that share no run of eight words are not found.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from extra_jax.data.problem import Problem, prompt_text

JACCARD = 0.5
CONTAINED = 0.8
WORDS = 8
_SHORTEST = 8  # shingles of the shorter text from which containment counts

_FIGURE = re.compile(r"\[asy\].*?\[/asy\]", re.DOTALL)
_FIGURE_MARK = re.compile(r"\[/?asy\]")
# Commands that say how a text looks. A command that runs on into a letter, a digit or `_` is left alone.
_LAYOUT = re.compile(
    r"\\(?:left|right|[bB]igg?|big[lr]|displaystyle|textstyle|text|textbf|textit|textrm|emph|mathrm|mathbf|quad|qquad|"
    r"limits|nolimits|operatorname|begin|end)\b"
)
# Spellings of one command. Substrings, so that \leqslant is \leq and \cdots is \dots.
_SPELLINGS = (("\\dfrac", "\\frac"), ("\\tfrac", "\\frac"), ("slant", ""), ("ldots", "dots"), ("cdots", "dots"))
_DECIMAL_POINT = re.compile(r"(?<=\d)\.(?=\d)")
_DROPPED = re.compile(r"[^a-z0-9+\-*/=<>^_|!\u00b7]")
_WORD = re.compile(r"[a-z]+|\d")


@dataclass(frozen=True)
class Match:
    """A training row and the benchmark item that it repeats.

    Attributes:
        row: Position in the training set, from 0.
        item: Position in the benchmark, from 0.
        kind: How it repeats.
        jaccard: Similarity of the shingles, 1.0 for exact matches.
        same_answer: Whether the answers are equal as text, blanks and ``$`` aside. A differing answer does not clear a
            row: it may be the same problem with its answer turned into another form.
    """

    row: int
    item: int
    kind: Literal["exact", "near"]
    jaccard: float
    same_answer: bool


def normal_form(text: str) -> str:
    """What two texts have in common when they are one problem written twice; the code of a figure is kept.

    Letters and digits of ASCII, ``+ - * / = < > ^ _ | !`` and decimal points are kept; layout commands, case, blanks,
    braces and other punctuation are dropped. Of a text in another script only the formulas are left, so there equality
    is a hint and no proof.
    """
    text = _one_spelling(_FIGURE_MARK.sub("", text), "")
    return _DROPPED.sub("", _DECIMAL_POINT.sub("\u00b7", text))


def shingles(text: str, words: int = WORDS) -> frozenset[tuple[str, ...]]:
    """Runs of ``words`` words, a word being a run of letters or one digit; figures and layout commands are left out."""
    tokens = _WORD.findall(_one_spelling(_FIGURE.sub(" ", text), " "))
    return frozenset(tuple(tokens[i : i + words]) for i in range(len(tokens) - words + 1))


def _one_spelling(text: str, gap: str) -> str:
    for old, new in _SPELLINGS:
        text = text.replace(old, new)
    return _LAYOUT.sub(gap, text).lower()


def answer_text(answer: str) -> str:
    """An answer without blanks and dollar signs, for comparison as text."""
    return "".join(answer.replace("$", "").split())


def contamination(train: Sequence[Problem], benchmark: Sequence[Problem]) -> list[Match]:
    """Every training row that repeats a benchmark item, with the item, by row and then item.

    Time grows with the length of the training set and the number of shingles it shares with the benchmark.
    """
    by_form: dict[str, list[int]] = defaultdict(list)
    by_shingle: dict[tuple[str, ...], list[int]] = defaultdict(list)
    sizes = []
    for index, problem in enumerate(benchmark):
        text = prompt_text(problem.prompt, only="user")
        grams = shingles(text)
        by_form[normal_form(text)].append(index)
        sizes.append(len(grams))
        for gram in grams:
            by_shingle[gram].append(index)

    matches = []
    for row, problem in enumerate(train):
        text = prompt_text(problem.prompt, only="user")
        exact = by_form.get(normal_form(text), [])
        near = {item: value for item, value in _near(shingles(text), by_shingle, sizes).items() if item not in exact}
        for item in sorted([*exact, *near]):
            same = answer_text(problem.answer) == answer_text(benchmark[item].answer)
            kind: Literal["exact", "near"] = "near" if item in near else "exact"
            matches.append(Match(row, item, kind, near.get(item, 1.0), same))
    return matches


def _near(
    grams: frozenset[tuple[str, ...]], by_shingle: dict[tuple[str, ...], list[int]], sizes: Sequence[int]
) -> dict[int, float]:
    """Jaccard similarity by item, of the items that are near."""
    shared = Counter(item for gram in grams for item in by_shingle.get(gram, ()))
    near = {}
    for item, count in shared.items():
        jaccard = count / (len(grams) + sizes[item] - count)
        shorter = min(len(grams), sizes[item])
        if jaccard >= JACCARD or (shorter >= _SHORTEST and count >= CONTAINED * shorter):
            near[item] = jaccard
    return near
