"""Sets of real numbers made of intervals and points, so that ``x < 2 or x > 3`` equals a union.

Such a set changes only at its ends, so two are equal when they agree at all ends of both, between them and beyond.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import mpmath

from extra_jax.answers.equality import approximate
from extra_jax.answers.shape import Combined, Group, Interval, Quantity, Relation, Shape, Words
from extra_jax.answers.words import EMPTY, REALS, meaning

_INFINITY = mpmath.mpf("inf")
_EQUAL = mpmath.mpf(10) ** -30
_FLIPPED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}


@dataclass(frozen=True)
class Region:
    """A set of reals.

    Attributes:
        ends: Finite places where it may change.
        holds: Whether a real is in it.
    """

    ends: tuple[mpmath.mpf, ...]
    holds: Callable[[mpmath.mpf], bool]


_LINE = Region((), lambda x: True)
_NOTHING = Region((), lambda x: False)


def region(shape: Shape) -> Region | None:
    """The set that ``shape`` describes; ``None`` when it does not describe a set of reals."""
    match shape:
        case Interval(low=low, high=high):
            return _between(low, high, shape.low_open, shape.high_open)
        case Group(kind="tuple", items=(low, high)):
            return _between(low, high, True, True)
        case Group(kind="set"):
            return _any([_point(_end(item)) for item in shape.items])
        case Group(kind="bare"):
            return _listed(shape)
        case Combined():
            return _combined(shape)
        case Relation():
            return _related(shape)
        case Words():
            return {REALS: _LINE, EMPTY: _NOTHING}.get(meaning(shape.text) or "")
        case Quantity() if shape.node.name == "mathbb[R]":
            return _LINE
        case Quantity() if shape.node.name == "emptyset":
            return _NOTHING
        case Quantity():
            return _point(_end(shape))
    return None


def same_region(left: Region, right: Region) -> bool:
    """Whether two sets have the same elements."""
    return all(left.holds(x) == right.holds(x) for x in _probes(*left.ends, *right.ends))


def is_empty(one: Region) -> bool:
    """Whether nothing is in the set."""
    return same_region(one, _NOTHING)


def _probes(*ends: mpmath.mpf) -> list[mpmath.mpf]:
    """Every different end, a place between each two, and one on either side of all."""
    different: list[mpmath.mpf] = []
    for end in sorted(ends):
        if not different or not _close(different[-1], end):
            different.append(end)
    if not different:
        return [mpmath.mpf(0)]
    between = [(a + b) / 2 for a, b in pairwise(different)]
    reach = abs(different[0]) + abs(different[-1]) + 1
    return [-2 * reach, *different, *between, 2 * reach]


def _close(left: mpmath.mpf, right: mpmath.mpf) -> bool:
    gap = abs(left - right)
    return bool(left == right or (gap != _INFINITY and gap <= _EQUAL * max(abs(left), abs(right), 1)))


def _below(left: mpmath.mpf, right: mpmath.mpf) -> bool:
    return bool(left < right) and not _close(left, right)


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


def _end(shape: Shape) -> mpmath.mpf | None:
    return approximate(shape.node) if isinstance(shape, Quantity) else None


def _any(parts: Sequence[Region | None]) -> Region | None:
    known = [part for part in parts if part is not None]
    ends = tuple(end for part in known for end in part.ends)
    return Region(ends, lambda x: any(part.holds(x) for part in known)) if len(known) == len(parts) else None


def _both(left: Region, right: Region) -> Region:
    return Region(left.ends + right.ends, lambda x: left.holds(x) and right.holds(x))


def _point(end: mpmath.mpf | None) -> Region | None:
    return None if end is None else _bound("=", end)


def _between(low: Shape, high: Shape, low_open: bool, high_open: bool) -> Region | None:
    ends = _end(low), _end(high)
    if ends[0] is None or ends[1] is None or ends[0] > ends[1]:
        return None
    return _both(_bound(">" if low_open else "\\ge", ends[0]), _bound("<" if high_open else "\\le", ends[1]))


def _bound(sign: str, end: mpmath.mpf) -> Region:
    """The reals that stand in a relation to ``end``."""
    compare: dict[str, Callable[[mpmath.mpf], bool]] = {
        "<": lambda x: _below(x, end),
        ">": lambda x: _below(end, x),
        "\\le": lambda x: not _below(end, x),
        "\\ge": lambda x: not _below(x, end),
        "=": lambda x: _close(x, end),
        "\\ne": lambda x: not _close(x, end),
    }
    return Region(() if abs(end) == _INFINITY else (end,), compare[sign])


def _listed(shape: Group) -> Region | None:
    parts = [region(item) for item in shape.items]
    known = [part for part in parts if part is not None]
    whole = _any(parts)
    if whole is None or not known:
        return whole
    if shape.joined != "or" and all(isinstance(item, Relation) for item in shape.items):
        together = known[0]
        for part in known[1:]:
            together = _both(together, part)
        whole = whole if is_empty(together) else together
    # Where one of them alone says it all, the others leave open what is meant: "x > 2 or x > 3".
    return None if len(known) > 1 and any(same_region(whole, part) for part in known) else whole


def _combined(shape: Combined) -> Region | None:
    total, *rest = [region(part) for part in shape.parts]
    for part in rest:
        if total is None or part is None:
            return None
        total = _joined(shape.operator, total, part)
    return total


def _joined(sign: str, left: Region, right: Region) -> Region:
    join: Callable[[bool, bool], bool] = {"\\cup": operator.or_, "\\cap": operator.and_}.get(sign, operator.gt)
    return Region(left.ends + right.ends, lambda x: join(left.holds(x), right.holds(x)))


def _related(shape: Relation) -> Region | None:
    """``a < x \\le b``, ``x > a``, ``x \\ne a``, ``x \\in S``."""
    sides, signs = shape.sides, shape.signs
    if signs == ("\\in",):
        return region(sides[1])
    if len(sides) == 3:
        first = _half(sides[1], _FLIPPED.get(signs[0], ""), sides[0])
        second = _half(sides[1], signs[1], sides[2])
        return None if first is None or second is None else _both(first, second)
    if len(sides) != 2:
        return None
    if _end(sides[0]) is not None and _end(sides[1]) is None:
        return _half(sides[1], _FLIPPED.get(signs[0], signs[0]), sides[0])
    return _half(sides[0], signs[0], sides[1])


def _half(label: Shape, sign: str, bound: Shape) -> Region | None:
    """Where a name, its absolute value or its negative stands in a relation to a number."""
    end = _end(bound)
    if end is None or _end(label) is not None or sign not in (*_FLIPPED, "=", "\\ne"):
        return None
    one = _bound(sign, end)
    if isinstance(label, Words):
        return one
    if not isinstance(label, Quantity):
        return None
    node = label.node
    if node.name == "abs" and node.args[0].op == "sym":
        return Region((*one.ends, *(-x for x in one.ends)), lambda x: one.holds(abs(x)))
    if node.op == "neg" and node.args[0].op == "sym":
        return Region(tuple(-x for x in one.ends), lambda x: one.holds(-x))
    return one if node.op in ("sym", "call") else None
