"""The rule of verl's ``math_dapo`` (DAPO, AIME), for comparison: last 300 characters, last ``Answer:`` line, normalised
as in Minerva (Lewkowycz et al. 2022, appendix D.1), equal as strings. Its weaknesses are part of it.
"""

import re

from extra_jax.answers.vocabulary import names
from extra_jax.reward.verdict import Grade, Verdict

_TAIL = 300
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
