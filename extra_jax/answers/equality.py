"""Equality of expressions, decided by their values.

There is no tolerance: numbers are computed at rising precision, where the difference of two equal ones shrinks with the
precision and that of two different ones does not, so 1/2004! and 1/2006! differ. Expressions with variables are
compared at fixed pseudo-random rational points (Schwartz and Zippel), those about integers also at integers.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from itertools import pairwise

import mpmath

from extra_jax.answers.evaluate import Evaluator, Huge, Undefined, Value
from extra_jax.answers.tree import Node, is_number, symbols

_DIGITS = (40, 80, 160)
_DROP = mpmath.mpf(10) ** -20


def exact(node: Node) -> Fraction | None:
    """The value of ``node`` if plain arithmetic makes it rational, else ``None``."""
    if not is_number(node):
        return None
    try:
        value = Evaluator({}, _DIGITS[0])(node)
    except (Undefined, Huge):
        return None
    return value if isinstance(value, Fraction) else None


def approximate(node: Node) -> mpmath.mpf | None:
    """A real number as an mpf of about 40 digits, ``None`` when it is not real or not computable."""
    try:
        evaluator = Evaluator({}, _DIGITS[0])
        value = evaluator.inexact(evaluator(node))
    except (Undefined, Huge, KeyError):
        return None
    return None if isinstance(value, evaluator.ctx.mpc) else value


def computable(node: Node) -> bool:
    """Whether the size of ``node`` is within reach (its variables, if any, aside)."""
    try:
        Evaluator({name: Fraction(1) for name in symbols(node)}, _DIGITS[0])(node)
    except Huge:
        return False
    except Undefined:
        return True
    return True


def has_value(node: Node) -> bool:
    """Whether a number has a value: it divides by nothing that is zero, and so on."""
    try:
        Evaluator({}, _DIGITS[0])(node)
    except (Undefined, Huge):
        return False
    return True


def equal(left: Node, right: Node) -> bool | None:
    """Whether two expressions are equal; ``None`` when their values do not tell.

    Raises:
        Huge: A side is too large to compute.
    """
    bare_log = any(part.name == "log" for node in (left, right) for part in node.walk())
    answers = [_equal(left, right, base) for base in ((None, 10) if bare_log else (None,))]
    return True if True in answers else answers[0]


def _equal(left: Node, right: Node, log_base: int | None) -> bool | None:
    names = sorted(symbols(left) | symbols(right))
    if not names:
        return same_value(left, right, {}, log_base)
    pieces = any(part.name in _PIECEWISE for node in (left, right) for part in node.walk())
    points = _points(names, _WIDE if pieces else _RANGES)
    verdict = _agree(left, right, points, 24 if pieces else 6, log_base)
    if verdict is not True and not any(name[0] in _REAL for name in names) and _about_integers(left, right):
        return True if _agree(left, right, _integer_points(names), 16, log_base) else verdict
    return verdict


def _agree(
    left: Node, right: Node, points: Iterator[dict[str, Fraction]], needed: int, log_base: int | None
) -> bool | None:
    """Whether both sides have the same value at ``needed`` of the ``points``."""
    real = not any(part.name == "i" for node in (left, right) for part in node.walk())
    good = 0
    huge: Huge | None = None
    for point in points:
        try:
            same = same_value(left, right, point, log_base, real=real)
        except Huge as error:
            huge = error
            continue
        if same is None:
            continue
        if not same:
            return False
        good += 1
        if good == needed:
            return True
    if huge is not None and not good:
        raise huge
    return None


def same_value(
    left: Node, right: Node, point: Mapping[str, Fraction], log_base: int | None = None, *, real: bool = False
) -> bool | None:
    """Whether two expressions have the same value at a point; ``None`` when a side has none there."""

    def values(digits: int) -> tuple[Value, Value, Evaluator]:
        evaluator = Evaluator(point, digits, log_base, real=real)
        return evaluator(left), evaluator(right), evaluator

    return _same(values)


def proportional(left: Node, right: Node) -> bool:
    """Whether ``right`` is a non-zero constant times ``left``, so that both vanish together."""
    names = sorted(symbols(left) | symbols(right))
    good = 0
    points = list(_points(names))
    for first, second in pairwise(points):

        def values(digits: int, first=first, second=second) -> tuple[Value, Value, Evaluator]:
            one, two = (Evaluator(point, digits, real=True) for point in (first, second))
            a, b, c, d = one(left), two(right), two(left), one(right)
            if 0 in (a, b, c, d):
                raise Undefined("a residual of zero")
            return one.product(a, b), one.product(c, d), one

        try:
            same = _same(values)
        except Huge:
            continue
        if same is False:
            return False
        good += same is True
        if good == 6:
            return True
    return False


def _same(values: Callable[[int], tuple[Value, Value, Evaluator]]) -> bool | None:
    """Compare two values at rising precision; ``None`` where they are undefined."""
    earlier: mpmath.mpf | None = None
    for digits in _DIGITS:
        try:
            a, b, evaluator = values(digits)
        except Undefined:
            return None
        if isinstance(a, Fraction) and isinstance(b, Fraction):
            return a == b
        a, b = evaluator.inexact(a), evaluator.inexact(b)
        if evaluator.ctx.isnan(a) or evaluator.ctx.isnan(b):
            return None
        if evaluator.ctx.isinf(a) or evaluator.ctx.isinf(b):
            return bool(a == b)
        gap = mpmath.mpf(abs(a - b))
        if earlier:
            return bool(gap <= earlier * _DROP)
        if earlier == 0 and gap == 0:
            return True
        earlier = gap
    return False


_REAL = frozenset("xyztuvw")
"""Letters that do not stand for integers by themselves."""

_PIECEWISE = frozenset(("abs", "floor", "ceil", "max", "min", "sgn"))
_RANGES = ((1, 3), (-3, -1), (0, 1), (-2, 2), (2, 9), (-1, 1))
_WIDE = ((1, 3), (-3, -1), (5, 40), (-40, -5), (0, 1), (40, 2000), (-2000, -40), (2, 9))


def _points(names: list[str], ranges: tuple[tuple[int, int], ...] = _RANGES) -> Iterator[dict[str, Fraction]]:
    """Fixed rational points of both signs."""
    for place in range(12 * len(ranges)):
        low, high = ranges[place % len(ranges)]
        yield {name: low + (high - low) * _fraction(f"{name}/{place}") for name in names}


def _integer_points(names: list[str]) -> Iterator[dict[str, Fraction]]:
    for place in range(60):
        yield {name: Fraction(1 + int(_fraction(f"{name}#{place}") * 19)) for name in names}


def _fraction(key: str) -> Fraction:
    digest = hashlib.sha256(key.encode()).digest()
    return Fraction(int.from_bytes(digest[:2], "big") * 2 + 1, 2**17 + 29)


def _about_integers(*nodes: Node) -> bool:
    """Whether an expression speaks of integers: counting functions, floors, (-1)^n, cos(πn)."""
    for node in nodes:
        for part in node.walk():
            if part.name in ("floor", "ceil", "factorial", "factorial2", "binom", "gcd", "lcm"):
                return True
            if part.op == "pow" and symbols(part.args[1]) and not symbols(part.args[0]):
                base = approximate(part.args[0])
                if base is None or base < 0:
                    return True
            if part.name in ("sin", "cos", "tan") and any(child.name == "pi" for child in part.args[0].walk()):
                return True
    return False
