"""From a judge's text to a score of 1 to 5, and from that to a number in [0, 1]."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

LOWEST, HIGHEST = 1, 5

# A thought ends at the last tag that closes one; one that a line opens and nothing closes goes on to the end.
# <think> is of Qwen and DeepSeek, [THINK] of Mistral, channels of gpt-oss.
_CLOSED = re.compile(r"</think(?:ing)?>|</thought>|\[/THINK\]|<\|channel\|>final<\|message\|>", re.IGNORECASE)
_OPENED = re.compile(r"^[ \t]*+(?:<think(?:ing)?>|<thought>|\[THINK\]|<\|channel\|>analysis)", re.I | re.M)

# A line is read with its markup as blanks, which keeps every place: a label, perhaps the scale, the number, the rest.
# Possessive quantifiers keep that linear in the text.
_MARKUP = str.maketrans(dict.fromkeys("*_#$\\{}[]\"“”'`", " "))
_LABEL = re.compile(
    r"[^a-z0-9]*+(?:(?:final|overall)\s++)?(?P<label>scores?)\b"
    r"(?P<gap>[^a-z0-9(:=|]*+(?:\(?\s*+(?:1\s*+(?:-|–|to)\s*+5|out\s++of\s++5)(?![0-9])\s*+\)?)?+[^a-z0-9]*+)",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"[^a-z0-9]*+(?:boxed\s++)?+(?P<number>[0-9]++(?:[.,][0-9]++)?+)(?P<rest>.*)", re.I | re.S)
_WHOLE = re.compile(r"([1-5])(?:[.,]0+)?")
_CHANGED = re.compile(r"[-−–+.,~≈≥≤±]$|:\s*>\s*$|=\s+>\s*$")  # in front of a number: another number
_OF_FIVE = re.compile(
    r"\s*+(?:/|(?:out\s++)?of\b)\s*+5(?:\.0++)?+(?![0-9])(?:\s*+(?:points?|stars?)\b)?+", re.IGNORECASE
)
_LEVEL = re.compile(r"\s*+(?:(?:very\s++)?(?:un)?likely|possible|points?)\b", re.IGNORECASE)
_MORE = re.compile(r"(?:or|and|to|of|out|per|percent)\b", re.IGNORECASE)  # words that make it another number
_SCALE = re.compile(
    r"\b(?:scale|range|max\w*)\b[^0-9]{0,40}(?:[01]\s*(?:-|–|to)\s*)?([0-9]+)|^(?:out\s+)?of\s+([0-9]+)", re.I
)
_TAG = re.compile(r"\s*+</\w++>")
_WORDS = re.compile(r"([^a-z0-9]*+)(.*)", re.IGNORECASE | re.DOTALL)
_AGAIN = re.compile(r"\bscores?\s*[:=]\s*[0-9]", re.IGNORECASE)


@dataclass(frozen=True)
class Parsed:
    """A score and where its digit stands in the text (characters)."""

    score: int
    position: int


_NOTHING = Parsed(0, 0)


def answer_start(text: str) -> int | None:
    """Where a reply becomes an answer, behind its thought; ``None`` where it ends inside one."""
    start = max((match.end() for match in _CLOSED.finditer(text)), default=0)
    return None if _OPENED.search(text, start) else start


def parse_score(text: str, cut: bool = False) -> Parsed | None:
    """The score in a judge's reply, or ``None`` where there is no valid one.

    The last line that states a score decides. If what it states is no whole number of 1 to 5, or is of another scale,
    the reply is unparseable, and an earlier line is not consulted. Nothing is stated by a thought, by a quoted line
    (``> Score: 5``) and by prose (``Score 5 would need a proof``).

    Args:
        cut: The reply hit its cap. Then a line that something follows may have been a quotation, and a number at the
            very end may be half of one.

    Source: ``docs/methods/exprl.md`` 2.2; the released parser takes the first digit after the first
    "Score:", so that "10" counts as 1 and "[4]" as nothing.
    """
    start = answer_start(text)
    if start is None:
        return None
    last = None
    lines = text[start:].split("\n")
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if (stated := _statement(line, following)) is not _NOTHING:
            last = None if stated is None else Parsed(stated.score, start + stated.position)
        start += len(line) + 1
    if last is not None and cut:
        rest, line_ends, further = text[last.position + 1 :].partition("\n")
        if re.search(r"\w", further) or not (line_ends or re.search(r"[^\s.,]", rest)):
            return None
    return last


def _statement(line: str, following: str) -> Parsed | None:
    """The score that a line states, ``None`` for one that is not valid, ``_NOTHING`` where it states none."""
    plain = line.translate(_MARKUP)
    label = _LABEL.match(plain)
    if label is None or _is_quoted(line, label):
        return _NOTHING
    begin, heading = label.end(), label.end() == len(plain)
    if heading:  # the number stands on the next line, with nothing else
        begin, plain = len(plain) + 1, f"{plain}\n{following.translate(_MARKUP)}"
    number = _NUMBER.match(plain, begin)
    if number is None:
        return None if not heading and re.search("[:=：]", label["gap"]) else _NOTHING
    rest = _read_rest(number["rest"])
    if rest == "prose" or (heading and rest != "nothing"):
        return _NOTHING
    whole, gap = _WHOLE.fullmatch(number["number"]), plain[label.end("label") : number.start("number")]
    less = gap.rstrip().endswith("<") and not number["rest"].lstrip().startswith(">")
    if whole is None or rest == "another number" or less or _CHANGED.search(gap):
        return None
    return Parsed(int(whole[1]), number.start("number"))


def _is_quoted(line: str, label: re.Match[str]) -> bool:
    """Whether a line repeats somebody's words: ``> Score: 5`` or ``"Score: 5"``, but not the JSON ``"score": 5``."""
    before, behind = line[: label.start("label")].strip(), line[label.end("label") :]
    return before.startswith(">") or (before.endswith(tuple("\"'“‘«「")) and not behind.startswith(tuple("\"'”’")))


def _read_rest(rest: str) -> Literal["nothing", "explanation", "prose", "another number"]:
    """What follows the number of a line that begins like a score."""
    for form in (_OF_FIVE, _LEVEL, _TAG):
        if match := form.match(rest):
            rest = rest[match.end() :]
    marks, words = _WORDS.match(rest).groups()  # type: ignore[union-attr]  # matches every text
    if words[:1].isdigit() or re.search(r"[%/+^=×÷→]", marks):
        return "another number"
    if not words:
        return "nothing"
    if not marks.strip():
        return "another number" if _MORE.match(words) else "prose"
    scale = _SCALE.search(words)
    if (scale is not None and (scale[1] or scale[2]) != "5") or _AGAIN.search(words):
        return "another number"
    return "explanation"


def expected_score(
    text: str, parsed: Parsed, tokens: Sequence[str], alternatives: Sequence[Sequence[tuple[str, float]]]
) -> float | None:
    """Expectation of the score under the judge's own distribution at the digit that it wrote.

    The digit is looked for from the end of the tokens, by what stands on its line: tokens may be more than the text (a
    thought, an end mark) and other than it (vllm#27300: a character of several tokens comes as a replacement for each).

    Args:
        text: The reply, in which ``parsed`` was read.
        tokens: The reply, token by token.
        alternatives: For each token, the most likely tokens in its place with their natural log-probabilities.

    Returns:
        ``sum k p(k) / sum p(k)`` over ``k`` in 1 to 5, or ``None`` where no token is that digit and nothing else.
    """
    start = max(match.start() for match in re.finditer("score", text[: parsed.position], re.IGNORECASE))
    wanted, joined = text[start : parsed.position + 1], "".join(tokens)
    place = len(joined)
    for _ in range(text.count(wanted, start)):
        place = joined.rfind(wanted, 0, place)
        if place < 0:
            return None
    ends = np.cumsum([len(token) for token in tokens])
    index = int(np.searchsorted(ends, place + len(wanted) - 1, side="right"))
    if tokens[index].strip() != str(parsed.score):
        return None
    weights: dict[int, float] = {}
    for token, logprob in alternatives[index]:
        if token.strip() in {"1", "2", "3", "4", "5"} and not math.isnan(logprob):
            level = int(token.strip())
            weights[level] = weights.get(level, 0.0) + math.exp(min(logprob, 0.0))
    total = sum(weights.values())
    return sum(level * weight for level, weight in weights.items()) / total if total > 0 else None


def normalise(scores: np.ndarray, scale: str = "smooth") -> np.ndarray:
    """Scores of 1 to 5 -> rewards in [0, 1]; NaN means "says nothing" and stays NaN.

    - ``smooth``: ``(score - 1) / 4``;
    - ``hard``: 1 above 3, else 0;
    - ``extremes``: 1 -> 0, 5 -> 1, everything between says nothing;
    - ``semi_smooth``: 1 -> 0, 4 -> 0.8, 5 -> 1, the rest says nothing.

    Args:
        scores: any shape; not necessarily whole (means of several samples, expectations).
        scale: name of the map.

    Source: ``docs/methods/exprl.md`` 2.3.
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
