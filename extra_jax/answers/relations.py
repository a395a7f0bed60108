"""Equations and assignments: ``y = 2x + 3`` against ``2x - y + 3 = 0``, ``f(x) = x`` against ``f(n) = n``."""

from collections.abc import Sequence

from extra_jax.answers.equality import equal, proportional
from extra_jax.answers.shape import Group, Opaque, Quantity, Ratio, Relation, Shape, Words
from extra_jax.answers.tree import Node, number, substitute, symbols

EQUALITY = frozenset(("=", "\\approx", "\\equiv"))
_VALUE_LABELS = frozenset("yfghzFGH")


def is_label(shape: Shape) -> bool:
    """Whether a side only names the thing: ``x``, ``f(x)``, ``(x, y)``, words."""
    if isinstance(shape, (Words, Opaque)):
        return True
    if isinstance(shape, Group):
        return all(is_label(item) for item in shape.items)
    if isinstance(shape, Ratio):
        return all(is_label(part) for part in shape.parts)
    return isinstance(shape, Quantity) and (_is_segment(shape.node) or shape.node.name.startswith("function "))


def _is_segment(node: Node) -> bool:
    """A name, ``AB`` for the segment between two points, and ``|AB|`` for its length."""
    if node.name == "abs" and node.op == "call":
        return node.args[0].name not in ("x", "y") and _is_segment(node.args[0])
    points = node.args if node.op == "mul" else ()
    return node.op == "sym" or (
        len(points) > 1 and all(point.op == "sym" and point.name[0].isupper() for point in points)
    )


def is_assignment(shape: Shape) -> bool:
    """Whether ``shape`` gives a value to a name."""
    return isinstance(shape, Relation) and set(shape.signs) <= EQUALITY and is_label(shape.sides[0])


def same_label(gold: Shape, answer: Shape) -> bool:
    """Whether two labels may name the same thing: equal letters, or both the value of a function."""
    if not isinstance(gold, Quantity) or not isinstance(answer, Quantity):
        return True
    left, right = (_letter(shape.node) for shape in (gold, answer))
    return left == right or (left in _VALUE_LABELS and right in _VALUE_LABELS)


def _letter(node: Node) -> str:
    return node.name.removeprefix("function ").split("_")[0]


def renamed(label: Shape, other: Shape, value: Node) -> Node:
    """``value`` of ``other`` in the argument names of ``label``: n of f(n) becomes x of f(x)."""
    if not isinstance(label, Quantity) or not isinstance(other, Quantity):
        return value
    for wanted, used in zip(label.node.args, other.node.args, strict=False):
        if wanted.op == used.op == "sym" and wanted.name not in symbols(value):
            value = substitute(value, used.name, wanted)
    return value


def same_equation(gold: Relation, answer: Relation) -> bool:
    """Whether two equations between expressions have the same solutions.

    They do when their residuals are proportional, or when one is ``v = value`` and the other is linear in ``v``
    and holds for that value.
    """
    sides = [*gold.sides, *answer.sides]
    if len(sides) != 4 or not all(isinstance(side, Quantity) for side in sides):
        return False
    first, second, third, fourth = (side.node for side in sides if isinstance(side, Quantity))
    left, right = _minus(first, second), _minus(third, fourth)
    if symbols(left) != symbols(right) or not symbols(left):
        return False
    if proportional(left, right):
        return True
    return _solves(first, second, right) or _solves(third, fourth, left)


def _minus(left: Node, right: Node) -> Node:
    return Node("add", (left, Node("neg", (right,))))


def _solves(label: Node, value: Node, residual: Node) -> bool:
    if label.op != "sym" or label.name in symbols(value):
        return False
    at = [substitute(residual, label.name, Node("add", (label, number(step)))) for step in (-1, 1)]
    bend = _minus(Node("add", tuple(at)), Node("mul", (number(2), residual)))
    zero = number(0)
    holds = equal(substitute(residual, label.name, value), zero)
    return bool(holds) and bool(equal(bend, zero)) and not equal(_minus(at[1], residual), zero)


def mirrored(signs: Sequence[str]) -> tuple[str, ...]:
    """The signs of a chain that is read from right to left."""
    flip = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}
    return tuple(flip.get(sign, sign) for sign in reversed(signs))
