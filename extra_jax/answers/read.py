"""Reading a cleaned text: what kind of thing it is, and its parts.

``read`` takes one way to read the notation and never fails: what it cannot read is ``Opaque`` with the reason.
"""

import re
from fractions import Fraction
from functools import partial
from typing import Literal

from extra_jax.answers.cut import (
    OPEN,
    condition_start,
    depth_change,
    end_of_group,
    is_separator,
    opener,
    spell,
    split,
    trim,
    with_conditions,
    without_label,
    without_reason,
)
from extra_jax.answers.equality import exact
from extra_jax.answers.lineup import values_by_name
from extra_jax.answers.measure import quantity
from extra_jax.answers.shape import (
    Based,
    Clock,
    Combined,
    Conditional,
    Group,
    Interval,
    Matrix,
    Opaque,
    Quantity,
    Ratio,
    Relation,
    Shape,
    Words,
)
from extra_jax.answers.syntax import parse
from extra_jax.answers.tokens import Reading, Token, tokenize
from extra_jax.answers.tree import Node, number
from extra_jax.answers.vocabulary import Unreadable, names
from extra_jax.answers.words import hedges

SIGNS = frozenset(("=", "<", ">", "\\le", "\\ge", "\\ne", "\\approx", "\\in", "\\equiv"))
_HALF = r"([ap]\s*\.?\s*m\s*\.?)"
_CLOCK = re.compile(rf"(\d{{1,2}}):(\d{{2}})(?::(\d{{2}}))?\s*{_HALF}?|(\d{{1,2}})\s*{_HALF}", re.IGNORECASE)
_BASE_WORDS = {
    word: place
    for place, word in enumerate(names("two three four five six seven eight nine ten eleven twelve"), start=2)
} | {"sixteen": 16}
_BASED = re.compile(
    r"\(?(-?)([0-9][0-9A-Za-z]*|[A-Z]+[0-9][0-9A-Z]*|[A-F]{2,}(?=_\{?16))(?:\.([0-9A-Za-z]+))?\)?"
    r"(?:\s*_\s*\{?|\s*\(?\s*(?:in )?base[\s-]*)(?:base )?(\d{1,2}|[a-z]+)\}?\)?"
)
_ONES = names(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
)
_TENS = names("twenty thirty forty fifty sixty seventy eighty ninety")
_NUMBER_WORDS = {word: place for place, word in enumerate(_ONES)} | {
    word + one: 20 + 10 * tens + place
    for tens, word in enumerate(_TENS)
    for place, one in enumerate(["", *(f"-{one}" for one in _ONES[1:10])])
}
_ENVIRONMENTS = frozenset(names("pmatrix bmatrix matrix Bmatrix smallmatrix array psmallmatrix bsmallmatrix"))

_TELLING = frozenset(
    names(
        "odd even positive negative nonnegative nonpositive zero nonzero prime composite otherwise divisible multiple "
        "square rational irrational acute obtuse"
    )
)
"""Words of a condition that tell one case from another."""

_SYSTEMS = frozenset(names("cases aligned align gathered align* gather split"))


def read(text: str, reading: Reading) -> Shape:
    """The shape of a cleaned text."""
    try:
        return _read(tokenize(text, reading), reading)
    except Unreadable as error:
        return Opaque(text, str(error))


def _read(tokens: list[Token], reading: Reading) -> Shape:
    tokens = trim(tokens)
    _refuse_hedges(tokens)
    tokens = without_reason(without_label(tokens))
    if not tokens:
        raise Unreadable("it is empty")
    text = spell(tokens)
    if tokens[0].text == "{" and end_of_group(tokens, 0) == len(tokens) - 1:
        return _read(tokens[1:-1], reading)
    for special in (_clock, _words, _based):
        if (shape := special(text, tokens)) is not None:
            return shape
    rows, _ = split(tokens, lambda token: token.text == ";" and token.kind == "op")
    pieces, joined = split(tokens, is_separator)
    if 1 < len(rows) < len(pieces) and (pairs := _named_pairs(text, rows, reading)):
        return pairs
    pieces = with_conditions(pieces)
    if len(pieces) > 1:
        return _list(text, [_read_safely(piece, reading) for piece in pieces], joined)
    if (start := condition_start(tokens)) is not None and (start or opener(tokens) == "otherwise"):
        return _conditional(text, tokens[:start] or tokens[1:], tokens[start:] if start else tokens[:1], reading)
    for operator in ("\\setminus", "\\cup", "\\cap"):
        parts, _ = split(tokens, partial(_spelt, operator))
        if len(parts) > 1:
            return Combined(text, operator, tuple(_read(part, reading) for part in parts))
    sides, _ = split(tokens, lambda token: token.kind != "text" and token.text in SIGNS)
    if len(sides) > 1:
        return _relation(text, tokens, sides, reading)
    return _single(text, tokens, reading)


def _refuse_hedges(tokens: list[Token]) -> None:
    """Words that take a value back, or leave another open, make the whole unreadable: it is right only as it stands."""
    words = " ".join(token.text for token in tokens if token.kind == "text")
    if hedges(words) and any(token.kind in ("num", "sym", "op") and token.text not in "-,;" for token in tokens):
        raise Unreadable(f"it hedges: {words.strip()!r}")


def _conditional(text: str, value: list[Token], condition: list[Token], reading: Reading) -> Conditional:
    words = " ".join(token.text for token in condition if token.kind == "text").lower()
    rest = trim([token for token in condition if token.kind != "text"])
    about = _read_safely(rest, reading) if rest else None
    telling = frozenset(re.findall("[a-z]+", words)) & _TELLING
    return Conditional(text, _read_safely(trim(value), reading), telling, about, opener(condition) or "if")


def _named_pairs(text: str, rows: list[list[Token]], reading: Reading) -> Group | None:
    """``p=5, q=2; p=7, q=2`` as a list of pairs in the order of the names."""
    groups = [_read_safely(row, reading) for row in rows]
    values = [values_by_name(group) if isinstance(group, Group) else None for group in groups]
    if None in values:
        return None
    pairs = [Group(row.text, "tuple", tuple(items)) for row, items in zip(groups, values, strict=True) if items]
    return Group(text, "bare", tuple(pairs))


def _read_safely(tokens: list[Token], reading: Reading) -> Shape:
    try:
        return _read(tokens, reading)
    except Unreadable as error:
        return Opaque(spell(tokens), str(error))


# -- kinds


def _words(text: str, tokens: list[Token]) -> Shape | None:
    """Words, with a letter between them at most: "all odd n"."""
    if tokens[0].kind != "text" or not all(
        token.kind == "text" or re.fullmatch("[A-Za-z-]", token.text) for token in tokens
    ):
        return None
    words = " ".join(token.text.strip() for token in tokens).replace(" - ", "-")
    if words.lower() in _NUMBER_WORDS:
        return Quantity(text, number(_NUMBER_WORDS[words.lower()]))
    parts = [part.strip() for part in re.split(r"[,;]|\band\b", words)]
    if len(parts) > 1 and all(re.fullmatch(r"\(?[A-Za-z]\)?", part) for part in parts if part):
        return Group(words, "bare", tuple(Words(part) for part in parts if part))
    return Words(words)


def _clock(text: str, tokens: list[Token]) -> Clock | None:
    if not any(token.text == ":" for token in tokens) and not any("m" in token.text.lower() for token in tokens):
        return None
    plain = re.sub(r"\\text|[{}]", " ", text).strip()
    match = _CLOCK.fullmatch(re.sub(r"\s*:\s*", ":", plain))
    if match is None:
        return None
    half = re.sub(r"[\s.]", "", match[4] or match[6] or "").lower()
    if not half and (int(match[1]) > 24 or int(match[2]) > 59):
        return None  # a ratio
    if match[5]:
        return Clock(text, (int(match[5]), 0), half)
    return Clock(text, tuple(int(part) for part in match.group(1, 2, 3) if part), half)


def _based(text: str, tokens: list[Token]) -> Based | None:
    if tokens[-1].text not in ("}", ")") and tokens[-1].kind not in ("num", "text"):
        return None
    plain = re.sub(r"\\text\{([^{}]*)\}", r" \1", text)
    plain = re.sub(r"(?<=[A-Za-z]) (?=[A-Za-z]\b|[_}])", "", plain)
    match = _BASED.fullmatch(re.sub(r"\s+", " ", plain).replace("{ ", "{"))
    if match is None:
        return None
    base = int(match[4]) if match[4].isdigit() else _BASE_WORDS.get(match[4], 0)
    digits = [int(digit, 36) for digit in match[2] + (match[3] or "")]
    if not 2 <= base <= 36 or max(digits) >= base or len(digits) > 500:
        return None
    value = 0
    for digit in digits:
        value = value * base + digit
    return Based(text, Fraction(-value if match[1] else value, base ** len(match[3] or "")), base)


def _spelt(text: str, token: Token) -> bool:
    return token.text == text


def _list(text: str, items: list[Shape], joined: str) -> Shape:
    """A bare list; ``x = 1, 2`` distributes its ``x =``."""
    first = items[0]
    if (
        isinstance(first, Relation)
        and first.signs[-1:] == ("=",)
        and not any(isinstance(item, (Relation, Opaque)) for item in items[1:])
    ):
        items = [first.sides[-1], *items[1:]]
    flat: list[Shape] = []
    for item in items:
        flat += item.items if isinstance(item, Group) and item.kind == "bare" else (item,)
    return Group(text, "bare", tuple(flat), joined)


def _relation(text: str, tokens: list[Token], sides: list[list[Token]], reading: Reading) -> Shape:
    depth = 0
    signs = []
    for token in tokens:
        depth += depth_change(token)
        if depth == 0 and token.kind != "text" and token.text in SIGNS:
            signs.append(token.text)
    shapes = [_read_safely(side, reading) for side in sides]
    last = shapes[-1]
    if isinstance(last, Group) and last.kind == "bare" and len(shapes) == 2 and signs == ["="]:  # x = ±2
        return last
    return Relation(text, tuple(shapes), tuple(signs[: len(shapes) - 1]))


def _single(text: str, tokens: list[Token], reading: Reading) -> Shape:
    first = tokens[0].text
    if text == "\\dots":
        return Words(text)
    if tokens[0].kind == "op" or first == "\\langle":
        if first in OPEN and end_of_group(tokens, 0) == len(tokens) - 1:
            grouped = _grouped(text, tokens, reading)
            if grouped is not None:
                return grouped
        if first == "|" and tokens[-1].text == "|" and len(tokens) > 2 and tokens[1].text == "\\begin":
            raise Unreadable("a determinant")
    if first == "\\begin":
        return _matrix(text, tokens, reading)
    start = next((place for place, token in enumerate(tokens) if token.text == "\\begin"), 0)
    if start and tokens[-1].text == "}":
        return _multiple(text, tokens[:start], _matrix(text, tokens[start:], reading), reading)
    if (ratio := _ratio(text, tokens, reading)) is not None:
        return ratio
    return quantity(text, tokens, reading)


def _grouped(text: str, tokens: list[Token], reading: Reading) -> Shape | None:
    opener, closer, inside = tokens[0].text, tokens[-1].text, tokens[1:-1]
    if inside and inside[0].text == "\\begin" and end_of_group(inside, 0) >= len(inside) - 4:
        return _read(inside, reading)
    if opener == "\\{":
        return _set(text, inside, reading)
    parts, _ = split(inside, is_separator)
    if len(parts) < 2:
        return (
            _read(inside, reading) if opener in ("(", "[") and closer in (")", "]") and _is_structure(inside) else None
        )
    items = tuple(_read_safely(part, reading) for part in parts)
    if opener == "\\langle":
        return Group(text, "vector", items)
    if opener == "(" and closer == ")":
        return _spread(text, "tuple", items)
    if len(items) == 2 and opener in ("(", "[") and closer in (")", "]"):
        return Interval(text, items[0], items[1], opener == "(", closer == ")")
    if opener == "[" and closer == "]":
        return Group(text, "bracket", items)
    return None


def _is_structure(inside: list[Token]) -> bool:
    """Whether parentheses hold more than one plain expression."""
    depth = 0
    for token in inside:
        depth += depth_change(token)
        if depth == 0 and (token.kind == "text" or token.text in SIGNS or token.text in ("\\cup", "\\usd", ":")):
            return True
    return bool(inside) and inside[0].text in ("(", "[", "\\{") and end_of_group(inside, 0) == len(inside) - 1


def _spread(text: str, kind: Literal["tuple", "set"], items: tuple[Shape, ...]) -> Shape:
    """``(±1, 2)`` is two pairs."""
    choices: list[tuple[Shape, ...]] = [()]
    for item in items:
        many = item.items if isinstance(item, Group) and item.kind == "bare" else (item,)
        choices = [(*done, one) for done in choices for one in many][:64]
    if kind == "set":
        return Group(text, "set", tuple(one for item in items for one in _flat(item)))
    if len(choices) == 1:
        return Group(text, kind, choices[0])
    return Group(text, "bare", tuple(Group(text, kind, choice) for choice in choices))


def _flat(item: Shape) -> tuple[Shape, ...]:
    return item.items if isinstance(item, Group) and item.kind == "bare" else (item,)


def _set(text: str, inside: list[Token], reading: Reading) -> Shape:
    if not inside:
        return Group(text, "set", ())
    condition, _ = split(inside, lambda token: token.text in ("|", ":") and token.kind == "op")
    if len(condition) == 2:
        return _read(condition[1], reading)
    parts, _ = split(inside, is_separator)
    return _spread(text, "set", tuple(_read_safely(part, reading) for part in parts))


def _matrix(text: str, tokens: list[Token], reading: Reading) -> Shape:
    start = end_of_group(tokens, 1) + 1
    name = spell(tokens[2 : start - 1]).removeprefix("\\text{").removesuffix("}")
    if name in _SYSTEMS:
        rows, _ = split(tokens[start : _environment_end(tokens, start)], lambda token: token.text == "\\newrow")
        return _list(text, [_line(row, reading) for row in rows], "and")
    if name not in _ENVIRONMENTS:
        raise Unreadable(f"the environment {name!r}")
    if name == "array" and tokens[start].text == "{":
        start = end_of_group(tokens, start) + 1
    end = _environment_end(tokens, start)
    if spell(tokens[end + 1 :]).strip("{}") not in (f"\\text{{{name}", name, f"\\text{{{name}}}"):
        raise Unreadable("something after a matrix")
    rows, _ = split(tokens[start:end], lambda token: token.text == "\\newrow")
    cells = [split(row, lambda token: token.text == "&")[0] for row in rows]
    return Matrix(text, tuple(tuple(_read_safely(cell, reading) for cell in row) for row in cells))


def _line(row: list[Token], reading: Reading) -> Shape:
    """A line of a system, or a value and its condition; there ``&`` stands between them."""
    cells, _ = split(row, lambda token: token.text == "&")
    if len(cells) == 2 and cells[1][0].text not in SIGNS and cells[0][-1].text not in SIGNS | {"+", "-"}:
        return _conditional(spell(row), cells[0], cells[1], reading)
    return _read_safely([token for token in row if token.text != "&"], reading)


def _multiple(text: str, factor: list[Token], matrix: Shape, reading: Reading) -> Shape:
    r"""``\frac{1}{2}`` times a matrix, entry by entry."""
    tokens = factor[:-1] if factor[-1].text in ("\\cdot", "\\times", "*") else factor
    scalar = parse(tokens, reading)
    if not isinstance(matrix, Matrix):
        raise Unreadable("a number before a system")
    rows = tuple(tuple(_times(scalar, cell) for cell in row) for row in matrix.rows)
    return Matrix(text, rows)


def _times(scalar: Node, cell: Shape) -> Shape:
    if not isinstance(cell, Quantity):
        raise Unreadable("a matrix of something else than expressions")
    product = Node("mul", (scalar, cell.node))
    value = exact(product)
    return Quantity(cell.text, product if value is None else number(value), cell.unit)


def _environment_end(tokens: list[Token], start: int) -> int:
    return next((place for place in range(start, len(tokens)) if tokens[place].text == "\\end"), len(tokens))


def _ratio(text: str, tokens: list[Token], reading: Reading) -> Ratio | None:
    parts, _ = split(tokens, lambda token: (token.kind == "op" and token.text == ":") or token.text.strip() == "to")
    if len(parts) < 2:
        return None
    return Ratio(text, tuple(_read(part, reading) for part in parts))
