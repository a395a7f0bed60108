"""From a judge's text to a score of 1 to 5, and from that to a number in [0, 1]."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LOWEST, HIGHEST = 1, 5

# The line of the score: a label, perhaps the scale in brackets, then a number, perhaps wrapped in *, [ ], \boxed{ }.
# Possessive quantifiers keep "(1-5)" and "10" from being read as a 1, and the search linear in the text.
_FILLER = r"[^a-z0-9\n]*+"
_SCALE = r"(?:\(\s*1\s*(?:-|–|to)\s*5\s*\))?+"
_LINE = re.compile(
    rf"^{_FILLER}(?:final\s+)?scores?\b[^a-z0-9(\n]*+{_SCALE}{_FILLER}\n?{_FILLER}(?:boxed{_FILLER})?"
    r"(?P<number>\d++(?:[.,]\d++)?+)(?!\s*(?:-|–|to\b)\s*\d)",
    re.IGNORECASE | re.MULTILINE,
)


@dataclass(frozen=True)
class Parsed:
    """A score and where its digit stands in the text (characters)."""

    score: int
    position: int


def parse_score(text: str) -> Parsed | None:
    """The score in a judge's reply, or ``None`` where there is no valid one.

    The last line that states a score decides; a number on it that is not a whole 1 to 5 makes the reply unparseable
    instead of being clipped, and an earlier line is then not consulted.

    Source: ``docs/exprl.md`` 2.2; the released parser takes the first digit after the first
    "Score:", so that "10" counts as 1 and "[4]" as nothing.
    """
    lines = [(line["number"], line.start("number")) for line in _LINE.finditer(text)]
    if not lines or lines[-1][0] not in {"1", "2", "3", "4", "5"}:
        return None
    return Parsed(int(lines[-1][0]), lines[-1][1])


def expected_score(
    position: int, tokens: Sequence[str], alternatives: Sequence[Sequence[tuple[str, float]]]
) -> float | None:
    """Expectation of the score under the judge's own distribution at the digit that it wrote.

    Args:
        position: Of the digit in the joined tokens (characters), as ``parse_score`` reports it.
        tokens: The reply, token by token.
        alternatives: For each token, the most likely tokens in its place with their natural log-probabilities.

    Returns:
        ``sum k p(k) / sum p(k)`` over ``k`` in 1 to 5, or ``None`` where the tokens do not hold a digit there.
    """
    end = 0
    for token, candidates in zip(tokens, alternatives, strict=True):
        end += len(token)
        if end <= position:
            continue
        weights: dict[int, float] = {}
        for text, logprob in candidates:
            if text.strip() in {"1", "2", "3", "4", "5"}:
                level = int(text.strip())
                weights[level] = weights.get(level, 0.0) + math.exp(logprob)
        total = sum(weights.values())
        return sum(level * weight for level, weight in weights.items()) / total if total > 0 else None
    return None


def normalise(scores: np.ndarray, scale: str = "smooth") -> np.ndarray:
    """Scores of 1 to 5 -> rewards in [0, 1]; NaN means "says nothing" and stays NaN.

    - ``smooth``: ``(score - 1) / 4``;
    - ``hard``: 1 above 3, else 0;
    - ``extremes``: 1 -> 0, 5 -> 1, everything between says nothing;
    - ``semi_smooth``: 1 -> 0, 4 -> 0.8, 5 -> 1, the rest says nothing.

    Args:
        scores: any shape; not necessarily whole (means of several samples, expectations).
        scale: name of the map.

    Source: ``docs/exprl.md`` 2.3.
    """
    scores = np.asarray(scores, np.float64)
    if scale == "smooth":
        return (scores - LOWEST) / (HIGHEST - LOWEST)
    if scale == "hard":
        return np.where(np.isnan(scores), np.nan, (scores > 3).astype(np.float64))
    levels = {"extremes": {1: 0.0, 5: 1.0}, "semi_smooth": {1: 0.0, 4: 0.8, 5: 1.0}}[scale]
    rewards = np.full(scores.shape, np.nan)
    for level, reward in levels.items():
        rewards[scores == level] = reward
    return rewards
