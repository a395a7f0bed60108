"""The door to math-verify, for notation that ``syntax`` does not read.

Only whole expressions count: no search for numbers inside text, no fallback to strings, so that half an answer is never
compared. math-verify's own alarm signals are off; the bound is the worker process (``reward.workers``).
"""

import logging
import re
from functools import lru_cache
from typing import Any

from extra_jax.answers.words import hedges

_LONGEST = 2000
_WORDS = re.compile(r"\\text\s*\{[^{}]*[A-Za-z]{2}")


class GoldUnreadable(Exception):
    """Neither this package nor math-verify can read the gold."""


@lru_cache(maxsize=1)
def library() -> Any:
    """math-verify, imported at first use: it takes a second and most answers do not need it."""
    import math_verify

    for name in ("math_verify.parser", "math_verify.grader"):
        logging.getLogger(name).setLevel(logging.ERROR)  # it warns once that its timeouts are off, as intended
    return math_verify


def parse(text: str) -> list[Any]:
    """Expressions that math-verify reads in a boxed ``text``; empty when it reads none.

    It passes over words, whatever they say about the formulas beside them, so a text with words is not asked about.
    """
    if len(text) > _LONGEST or _WORDS.search(text) or hedges(text):
        return []
    math_verify = library()
    config = math_verify.LatexExtractionConfig(boxed_match_priority=0)
    return math_verify.parse(rf"\boxed{{{text}}}", [config], fallback_mode="no_fallback", parsing_timeout=None)


def verify(gold: str, answer: str) -> bool | None:
    """Whether math-verify finds the two equal; ``None`` when it cannot read the gold.

    Raises whatever the comparison raises: an error of the library is not a verdict.
    """
    expected = parse(gold)
    if not expected:
        return None
    got = parse(answer)
    return bool(got) and bool(library().verify(expected, got, timeout_seconds=None, raise_on_error=True))
