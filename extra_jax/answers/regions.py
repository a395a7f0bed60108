"""Sets of real numbers made of intervals and points, in one normal form, so that ``x < 2 or x > 3`` equals a union."""

from dataclasses import dataclass

import mpmath

from extra_jax.answers.equality import approximate
from extra_jax.answers.shape import Combined, Group, Interval, Quantity, Relation, Shape, Words
from extra_jax.answers.tree import Node
from extra_jax.answers.words import EMPTY, REALS, meaning

_INFINITY = mpmath.mpf("inf")
_EQUAL = mpmath.mpf(10) ** -30
_FLIPPED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}


@dataclass(frozen=True)
class Piece:
    """The reals between two ends; a point where the ends are equal and closed."""

    low: mpmath.mpf
    high: mpmath.mpf
    low_open: bool
    high_open: bool


_LINE = Piece(-_INFINITY, _INFINITY, True, True)
Region = list[Piece]


def region(shape: Shape) -> Region | None:
    """The set that ``shape`` describes in normal form; ``None`` when it does not describe a set of reals."""
    pieces = _pieces(shape)
    return None if pieces is None else _normal(pieces)


def same_region(left: Region, right: Region) -> bool:
    """Whether two normal forms are the same set."""
    return len(left) == len(right) and all(
        _close(a.low, b.low) and _close(a.high, b.high) and (a.low_open, a.high_open) == (b.low_open, b.high_open)
        for a, b in zip(left, right, strict=True)
    )


def is_set_notation(shape: Shape) -> bool:
    """Whether ``shape`` can only be read as a set of reals: a bracket, a union, an inequality, an infinite end."""
    if isinstance(shape, (Interval, Combined)):
        return True
    if isinstance(shape, Relation):
        return shape.signs[0] == "\\in" or all(sign in ("<", ">", "\\le", "\\ge", "\\ne") for sign in shape.signs)
    if isinstance(shape, Group) and shape.kind == "tuple" and len(shape.items) == 2:
        return any(_end(item) in (_INFINITY, -_INFINITY) for item in shape.items)
    if isinstance(shape, Group) and shape.kind == "bare":
        return bool(shape.items) and all(is_set_notation(item) for item in shape.items)
    if isinstance(shape, Words):
        return meaning(shape.text) == REALS
    return isinstance(shape, Quantity) and shape.node.name in ("mathbb[R]", "emptyset")


def _pieces(shape: Shape) -> Region | None:
    match shape:
        case Interval(low=low, high=high):
            return _between(low, high, shape.low_open, shape.high_open)
        case Group(kind="tuple", items=(low, high)):
            return _between(low, high, True, True)
        case Group(kind="set"):
            return _points(shape.items)
        case Group(kind="bare"):
            return _listed(shape)
        case Combined():
            return _combined(shape)
        case Relation():
            return _related(shape)
        case Words():
            return {REALS: [_LINE], EMPTY: []}.get(meaning(shape.text) or "")
        case Quantity() if shape.node.name == "mathbb[R]":
            return [_LINE]
        case Quantity() if shape.node.name == "emptyset":
            return []
        case Quantity():
            return _points((shape,))
    return None


def _end(shape: Shape) -> mpmath.mpf | None:
    return approximate(shape.node) if isinstance(shape, Quantity) else None


def _between(low: Shape, high: Shape, low_open: bool, high_open: bool) -> Region | None:
    ends = _end(low), _end(high)
    if ends[0] is None or ends[1] is None or ends[0] > ends[1]:
        return None
    return [Piece(ends[0], ends[1], low_open or ends[0] == -_INFINITY, high_open or ends[1] == _INFINITY)]


def _points(shapes: tuple[Shape, ...]) -> Region | None:
    ends = [_end(shape) for shape in shapes]
    return None if None in ends else [Piece(end, end, False, False) for end in ends]


def _listed(shape: Group) -> Region | None:
    parts = [region(item) for item in shape.items]
    if any(part is None for part in parts):
        return None
    known = [part for part in parts if part is not None]
    both = known[0]
    for part in known[1:]:
        both = _intersection(both, part)
    relations = all(isinstance(item, Relation) for item in shape.items)
    conjunction = relations and shape.joined != "or" and bool(both)
    whole = both if conjunction else _normal([piece for part in known for piece in part])
    if len(known) > 1 and any(same_region(whole, part) for part in known):
        return None  # one of them alone would say it all: "x > 2 or x > 3" leaves open which
    if conjunction:
        return both
    return [piece for part in known for piece in part]


def _combined(shape: Combined) -> Region | None:
    parts = [region(part) for part in shape.parts]
    if any(part is None for part in parts):
        return None
    known = [part for part in parts if part is not None]
    total = known[0]
    for part in known[1:]:
        if shape.operator == "\\cup":
            total = _normal(total + part)
        elif shape.operator == "\\cap":
            total = _intersection(total, part)
        else:
            total = _intersection(total, _complement(part))
    return total


def _related(shape: Relation) -> Region | None:
    """``a < x \\le b``, ``x > a``, ``x \\ne a``, ``x \\in S``."""
    sides, signs = shape.sides, shape.signs
    if signs == ("\\in",):
        return _pieces(sides[1])
    if len(sides) == 3:
        first = _half(sides[1], _FLIPPED.get(signs[0], ""), sides[0])
        second = _half(sides[1], signs[1], sides[2])
        return None if first is None or second is None else _intersection(first, second)
    if len(sides) != 2:
        return None
    if _end(sides[0]) is not None and _end(sides[1]) is None:
        return _half(sides[1], _FLIPPED.get(signs[0], signs[0]), sides[0])
    return _half(sides[0], signs[0], sides[1])


def _half(label: Shape, sign: str, bound: Shape) -> Region | None:
    end = _end(bound)
    if isinstance(label, Quantity) and label.node.name == "abs" and label.node.args[0].op == "sym" and end is not None:
        inside = [Piece(-end, end, sign == "<", sign == "<")] if end >= 0 else []
        return {"<": inside, "\\le": inside, ">": _complement(_closed(inside)), "\\ge": _complement(_open(inside))}.get(
            sign
        )
    if isinstance(label, Quantity) and label.node.op == "neg" and end is not None:
        return _half(Quantity(label.text, label.node.args[0]), _FLIPPED.get(sign, sign), Quantity("", _minus(bound)))
    named = isinstance(label, Words) or (isinstance(label, Quantity) and label.node.op in ("sym", "call"))
    if end is None or not named or _end(label) is not None:
        return None
    match sign:
        case "<" | "\\le":
            return [Piece(-_INFINITY, end, True, sign == "<" or end == _INFINITY)]
        case ">" | "\\ge":
            return [Piece(end, _INFINITY, sign == ">" or end == -_INFINITY, True)]
        case "\\ne":
            return _complement([Piece(end, end, False, False)])
        case "=":
            return [Piece(end, end, False, False)]
    return None


def _minus(bound: Shape) -> Node:
    assert isinstance(bound, Quantity)
    return Node("neg", (bound.node,))


def _closed(pieces: Region) -> Region:
    return [Piece(piece.low, piece.high, False, False) for piece in pieces]


def _open(pieces: Region) -> Region:
    return [Piece(piece.low, piece.high, True, True) for piece in pieces]


# -- set algebra on normal forms


def _close(left: mpmath.mpf, right: mpmath.mpf) -> bool:
    if left == right:
        return True
    size = max(abs(left), abs(right), mpmath.mpf(1))
    return bool(size != _INFINITY and abs(left - right) <= _EQUAL * size)


def _normal(pieces: Region) -> Region:
    """Sorted, with overlapping and touching pieces joined."""
    full = [
        piece
        for piece in pieces
        if piece.low < piece.high or (piece.low == piece.high and not piece.low_open and not piece.high_open)
    ]
    joined: Region = []
    for piece in sorted(full, key=lambda piece: (piece.low, piece.low_open)):
        last = joined[-1] if joined else None
        touches = last is not None and (
            (piece.low < last.high and not _close(piece.low, last.high))
            or (_close(piece.low, last.high) and not (piece.low_open and last.high_open))
        )
        if last is None or not touches:
            joined.append(piece)
            continue
        if _close(piece.high, last.high):
            high, high_open = last.high, last.high_open and piece.high_open
        elif piece.high > last.high:
            high, high_open = piece.high, piece.high_open
        else:
            high, high_open = last.high, last.high_open
        joined[-1] = Piece(last.low, high, last.low_open, high_open)
    return joined


def _intersection(left: Region, right: Region) -> Region:
    found = []
    for a in left:
        for b in right:
            low, low_open = (a.low, a.low_open) if a.low > b.low else (b.low, b.low_open)
            high, high_open = (a.high, a.high_open) if a.high < b.high else (b.high, b.high_open)
            if _close(a.low, b.low):
                low_open = a.low_open or b.low_open
            if _close(a.high, b.high):
                high_open = a.high_open or b.high_open
            found.append(Piece(low, high, low_open, high_open))
    return _normal(found)


def _complement(pieces: Region) -> Region:
    found: Region = []
    low, low_open = -_INFINITY, True
    for piece in _normal(pieces):
        found.append(Piece(low, piece.low, low_open, not piece.low_open))
        low, low_open = piece.high, not piece.high_open
    found.append(Piece(low, _INFINITY, low_open, True))
    return _normal([piece for piece in found if piece.low not in (_INFINITY,) and piece.high != -_INFINITY])
