"""Cutting a cleaned answer into tokens, in every way that its notation leaves open."""

import re
from dataclasses import dataclass
from fractions import Fraction

from extra_jax.answers.extract import closing_brace
from extra_jax.answers.vocabulary import (
    ABBREVIATIONS,
    FUNCTIONS,
    TooLarge,
    Unreadable,
    is_word,
)
from extra_jax.answers.words import hedges

_WORD_CONSTANTS = {"pi": "\\pi", "infinity": "\\infty", "inf": "\\infty", "sqrt": "\\sqrt", "theta": "\\theta"}
_CONNECTIVE = re.compile(r"[\s,;]*\b(and|or)\b[\s,;]*", re.IGNORECASE)


@dataclass(frozen=True)
class Token:
    """One token.

    Attributes:
        kind: ``num``, ``sym`` (letter or command), ``text``, ``sep`` ("and", "or") or ``op`` (any other sign).
        text: The characters, for ``text`` the words.
        value: Value of a ``num``.
        spaced: White space came before.
    """

    kind: str
    text: str
    value: Fraction | None = None
    spaced: bool = False


@dataclass(frozen=True)
class Reading:
    """How to resolve what notation leaves open; every combination that matters is tried.

    Attributes:
        thousands: ``70,110`` is one number and not two.
        exponent: ``2e-3`` is 0.002 and not 2e minus 3.
        tight_slash: ``1/2x`` is 1/(2x) and not (1/2)x.
        abbreviations: ``2 mg`` is two milligrams and not 2·m·g.
    """

    thousands: bool = True
    exponent: bool = True
    tight_slash: bool = False
    abbreviations: bool = True


_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?")
_EXPONENT = re.compile(r"(?:\d+\.?\d*|\.\d+)[eE]([-+]?)(\d{1,4})(?![\d.])")
_REPEATING = re.compile(r"(\d*)\.(\d*)\\(?:overline|bar|dot)\s*(?:\{\s*(\d+)\s*\}|(\d))")
_DOTS = re.compile(r"(\d*)\.(\d{2,60})\s*(?:\\dots|\.\.\.)")
_PLAIN = re.compile(r"\d+\.\d+|\.\d+|\d+\.(?!\.)|\d+")
_LETTERS = re.compile(r"[A-Za-z]+")
_NUMBER_IN_TEXT = re.compile(r"(?:.*\b(?:is|are|equals)\s|\D*:)?\s*(-?\d[\d.,]*(?:/\d+)?)(\s+[A-Za-z][A-Za-z .]*|)")
_NAME = re.compile(r"\\(?:[A-Za-z]+|.)", re.DOTALL)


def open_questions(text: str) -> list[Reading]:
    """The readings worth trying for a cleaned text, most usual first."""
    thousands = (True, False) if _THOUSANDS.search(text) else (True,)
    exponent = (True, False) if any(match[1] for match in _EXPONENT.finditer(text)) else (True,)
    slash = (False, True) if "/" in text else (False,)
    short = (True, False) if any(word in ABBREVIATIONS for word in _LETTERS.findall(text)) else (True,)
    return [Reading(t, e, s, a) for a in short for s in slash for e in exponent for t in thousands]


def tokenize(text: str, reading: Reading) -> list[Token]:
    """Cut a cleaned text into tokens; raises ``Unreadable`` on a sign that has no meaning in an answer."""
    tokens: list[Token] = []
    place = 0
    spaced = False
    while place < len(text):
        if text[place].isspace():
            spaced, place = True, place + 1
            continue
        fresh, place = _next_tokens(text, place, reading, spaced)
        tokens += fresh
        spaced = False
    return tokens


def _next_tokens(text: str, place: int, reading: Reading, spaced: bool) -> tuple[list[Token], int]:
    char = text[place]
    if char.isdigit() or (char == "." and text[place + 1 : place + 2].isdigit()):
        token, place = _number(text, place, reading, spaced)
        return [token], place
    if match := _LETTERS.match(text, place):
        return _word(match.group(), reading, spaced), match.end()
    if text.startswith("\\text", place) and (match := re.compile(r"\\text\s*\{").match(text, place)):
        end = closing_brace(text, match.end())
        if end is None:
            raise Unreadable("text without a closing brace")
        return _text_tokens(text[match.end() : end], spaced), end + 1
    if char == "\\" and (match := _NAME.match(text, place)):
        name = match.group()
        kind = "sym" if name[1].isalpha() else "op"
        return [Token(kind, name, spaced=spaced)], match.end()
    if char in "()[]{}|+-*/^_=<>,;:!'%&.?":
        return [Token("op", char, spaced=spaced)], place + 1
    raise Unreadable(f"unexpected {char!r}")


def _number(text: str, place: int, reading: Reading, spaced: bool) -> tuple[Token, int]:
    if match := _REPEATING.match(text, place):
        return Token("num", match.group(), _repeating(match[1], match[2], match[3] or match[4]), spaced), match.end()
    if match := _DOTS.match(text, place):
        tail = _period(match[2])
        if tail:
            head = match[2][: len(match[2]) - len(tail)]
            return Token("num", match.group(), _repeating(match[1], head, tail), spaced), match.end()
    if reading.thousands and (match := _THOUSANDS.match(text, place)):
        digits = match.group().replace(",", "")
        return Token("num", digits, Fraction(digits), spaced), match.end()
    match = _EXPONENT.match(text, place)
    if match and (reading.exponent or not match[1]):
        return Token("num", match.group(), Fraction(match.group()), spaced), match.end()
    match = _PLAIN.match(text, place)
    assert match is not None
    digits = match.group()
    if len(digits) > 4000:
        raise TooLarge(f"a number of {len(digits)} digits")
    return Token("num", digits, Fraction(digits.rstrip(".") if digits[0] != "." else "0" + digits), spaced), match.end()


def _repeating(whole: str, head: str, tail: str) -> Fraction:
    shift = 10 ** len(head)
    fixed = Fraction(int(whole + head or "0"), shift)
    return fixed + Fraction(int(tail), shift * (10 ** len(tail) - 1))


def _period(digits: str) -> str:
    """Shortest block that ends ``digits`` at least three times, or twice when longer than two; else empty."""
    for size in range(1, len(digits) // 2 + 1):
        block = digits[-size:]
        times = 3 if size < 3 else 2
        if digits.endswith(block * times):
            return block
    return ""


def _text_tokens(body: str, spaced: bool) -> list[Token]:
    """Words of ``\\text{...}``; "and" and "or" between answers become separators."""
    body = re.sub(r"[\\{}]", " ", body.replace("\\ ", " "))
    if _CONNECTIVE.fullmatch(body):
        return [Token("sep", "or" if "or" in body.lower() else "and", spaced=spaced)]
    if body.strip() == "/":
        return [Token("sep", "or", spaced=spaced)]
    if not body.strip(" ,;"):
        return [Token("op", ",", spaced=spaced)] if body.strip() else []
    if (inside := body.strip().strip(",;")) != body.strip():
        before, after = ([Token("op", ",")] * (body.strip()[end] in ",;") for end in (0, -1))
        return [*before, *_text_tokens(inside, spaced), *after]
    if re.fullmatch(r"[\s(]*-?[\d.,:/]+[\s)]*", body):
        return tokenize(body.strip(" ()").rstrip(".,"), Reading())
    if (match := _NUMBER_IN_TEXT.fullmatch(body)) and not hedges(body):
        words = [Token("text", match[2])] if match[2].strip() else []
        return [*tokenize(match[1].rstrip(".,"), Reading()), *words]
    return [Token("text", body, spaced=spaced)]


def _word(word: str, reading: Reading, spaced: bool) -> list[Token]:
    lower = word.lower()
    if lower in ("and", "or"):
        return [Token("sep", lower, spaced=spaced)]
    if word in FUNCTIONS or word in _WORD_CONSTANTS:
        return [Token("sym", _WORD_CONSTANTS.get(word, "\\" + word), spaced=spaced)]
    if is_word(word) or (reading.abbreviations and word in ABBREVIATIONS):
        return [Token("text", word, spaced=spaced)]
    return [Token("sym", letter, spaced=spaced and place == 0) for place, letter in enumerate(word)]
