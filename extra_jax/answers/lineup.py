"""Parts of a gold and of an answer brought side by side: in one unit, in one order, without labels."""

import re
from collections.abc import Callable, Sequence

from extra_jax.answers import relations
from extra_jax.answers.equality import approximate, equal
from extra_jax.answers.evaluate import Huge
from extra_jax.answers.shape import Conditional, Group, Matrix, Quantity, Relation, Shape
from extra_jax.answers.tree import Node, number
from extra_jax.answers.units import CURRENCIES, DEGREE, GENERIC, PERCENT, Unit, read_unit
from extra_jax.answers.words import choice

_RADIAN = read_unit("radian")
_APART = frozenset(unit.bases for unit in (PERCENT, DEGREE, *CURRENCIES.values()))
_MEASURES = {
    2: ((("metre", 2),), (("acre", 1),), (("hectare", 1),)),
    3: ((("metre", 3),), (("gallon", 1),)),
}
_AGREE = 0.01
"""Sides of a chain such as ``22/7 \\approx 3.14`` may differ by this part; more is a contradiction."""

_DECIMAL = re.compile(r"\.(\d+)(.*[^\d%].*)?$")


def letters(text: str) -> str | None:
    """A run of letters as a word; ``None`` for anything else."""
    word = "".join(text.split())
    return word.lower() if word.isalpha() and len(word) > 1 else None


def without_conditions(answer: Shape) -> Shape:
    """``n - 1, n \\ge 2`` is ``n - 1``."""
    if not isinstance(answer, Group) or answer.kind != "bare":
        return answer
    kept = [item for item in answer.items if not is_condition(item)]
    return kept[0] if len(kept) == 1 and len(answer.items) > 1 else answer


def cases(shape: Shape) -> bool:
    """Whether ``shape`` is a list of values of which each holds under its own condition."""
    return isinstance(shape, Group) and sum(isinstance(item, Conditional) for item in shape.items) > 1


def is_condition(shape: Shape) -> bool:
    return isinstance(shape, Relation) and all(sign not in relations.EQUALITY for sign in shape.signs)


def without_unit_letters(answer: Quantity) -> Quantity:
    """``5 m`` where the gold is a bare number; ``5m`` is a product."""
    node = answer.node
    if answer.unit is None and answer.loose_unit and node.op == "mul" and node.args[-1].name == answer.loose_unit:
        rest = node.args[:-1]
        return Quantity(answer.text, rest[0] if len(rest) == 1 else Node("mul", rest), read_unit(answer.loose_unit))
    return answer


def in_same_unit(gold: Quantity, answer: Quantity) -> list[tuple[Node, Node]]:
    """Pairs of values to compare, one of which has to agree; empty when the units contradict each other.

    A unit may be left out, and "units" may stand for any measure, but not for degrees, percent or money. Percent and
    degrees stand for the number before the sign and for a hundredth, or π/180, of it.
    """
    wanted, used = gold.unit or GENERIC, answer.unit or GENERIC
    pair = (gold.node, answer.node)
    if GENERIC in (gold.unit, answer.unit) and ({wanted.bases, used.bases} & _APART):
        return []
    for unit in (PERCENT, DEGREE):
        if wanted == unit != used and used in (GENERIC, _RADIAN):
            meant = (_fraction_of(unit, gold.node), answer.node)
            return [meant] if used == _RADIAN else [pair, meant]
        if used == unit != wanted and wanted in (GENERIC, _RADIAN):
            meant = (gold.node, _fraction_of(unit, answer.node))
            return [meant] if wanted == _RADIAN else [pair, meant]
    if GENERIC in (wanted, used):
        return [pair]
    if wanted.bases != used.bases:
        return [pair] if _may_be(wanted, used) or _may_be(used, wanted) else []
    return [(_in_base_units(gold.node, wanted), _in_base_units(answer.node, used))]


def _may_be(units: Unit, measure: Unit) -> bool:
    """Whether "square units" or "cubic units" may be this measure."""
    return any(units.bases == (("unit", power),) and measure.bases in _MEASURES[power] for power in (2, 3))


def _fraction_of(unit: Unit, node: Node) -> Node:
    return Node("div", (node, number(100))) if unit == PERCENT else Node("mul", (node, Node("const", name="deg")))


def _in_base_units(node: Node, unit: Unit) -> Node:
    return node if unit.factor == 1 else Node("div", (node, number(1 / unit.factor)))


def agree(values: Sequence[Quantity], *, roughly: bool = False) -> bool:
    """Whether the sides of a chain may all be right: decimals, and what stands behind ``\\approx``, may be rounded."""
    return all(
        any(_close(*pair, roughly, values[0].text, value.text) for pair in in_same_unit(values[0], value))
        for value in values[1:]
    )


def _close(left: Node, right: Node, roughly: bool, *texts: str) -> bool:
    a, b = approximate(left), approximate(right)
    decimals = [match for text in texts if (match := _DECIMAL.search(text))]
    if a is None or b is None or not (roughly or decimals):
        try:
            return bool(equal(left, right))
        except Huge:
            return True
    if roughly or any(match[2] for match in decimals):
        return bool(abs(a - b) <= _AGREE * max(abs(a), abs(b)))
    return bool(abs(a - b) <= 10.0 ** -min(len(match[1]) for match in decimals))


def ordered_items(gold: Group, answer: Shape) -> Sequence[Shape] | None:
    """Items of ``answer`` read as a tuple; ``None`` when it is a set, an interval or something else."""
    if isinstance(answer, Matrix):
        return vector(answer)
    if isinstance(answer, Quantity) and re.fullmatch("function [A-Z]", answer.node.name):  # a point A(1, 2)
        return [Quantity("", part) for part in answer.node.args]
    if not isinstance(answer, Group) or answer.kind == "set":
        return None
    if answer.kind != "bare":
        return answer.items
    if answer.joined == "or":
        return None
    return values_by_name(answer) or unless_pair(answer)


def values_by_name(group: Group) -> list[Shape] | None:
    """Values of ``x=1, y=2`` in the order of the names; ``None`` for anything but values of different names."""
    named = [item for item in group.items if isinstance(item, Relation) and relations.is_assignment(item)]
    names = {item.sides[0].text for item in named}
    if len(names) < len(group.items) or len(names) < 2:
        return None
    return [item.sides[-1] for item in sorted(named, key=lambda item: item.sides[0].text)]


def unless_pair(group: Group) -> Sequence[Shape] | None:
    """Items of a list or tuple that may stand for the other; two may not, as ``(a, b)`` is a point or an interval."""
    return group.items if len(group.items) > 2 else None


def vector(matrix: Matrix) -> tuple[Shape, ...] | None:
    if len(matrix.rows) == 1:
        return matrix.rows[0]
    return tuple(row[0] for row in matrix.rows) if all(len(row) == 1 for row in matrix.rows) else None


def right_side(shape: Shape) -> Shape:
    return shape.sides[-1] if isinstance(shape, Relation) and shape.signs == ("\\in",) else shape


def same_variable(gold: Relation, answer: Relation) -> bool:
    names = [
        {side.node.name for side in relation.sides if isinstance(side, Quantity) and side.node.op == "sym"}
        for relation in (gold, answer)
    ]
    return not names[0] or not names[1] or bool(names[0] & names[1])


def is_chosen(gold: Quantity, answer: Shape) -> bool:
    """A gold that is one capital letter may be a choice, and the answer the choice of it."""
    letter = gold.node.name
    is_choice = gold.node.op == "sym" and len(letter) == 1 and "A" <= letter <= "J"
    return is_choice and choice(answer.text) == letter


def distinct(items: Sequence[Shape], alike: Callable[[Shape, Shape], bool]) -> list[Shape]:
    """The items without those that are like an earlier one."""
    kept: list[Shape] = []
    for item in items:
        if not any(alike(other, item) for other in kept):
            kept.append(item)
    return kept
