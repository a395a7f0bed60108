"""Does an answer say what the gold says? One rule per kind of gold."""

from collections.abc import Sequence

from extra_jax.answers import guard, numerals, regions, relations, symbolic
from extra_jax.answers.equality import computable, equal, has_value
from extra_jax.answers.evaluate import Huge
from extra_jax.answers.lineup import (
    agree,
    cases,
    distinct,
    in_same_unit,
    is_chosen,
    letters,
    ordered_items,
    right_side,
    same_variable,
    unless_pair,
    values_by_name,
    vector,
    without_conditions,
    without_unit_letters,
)
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
from extra_jax.answers.symbolic import GoldUnreadable
from extra_jax.answers.tree import Node, is_number, number, symbols
from extra_jax.answers.words import meaning, plain, same_words

_MANY = 50
"""A list this much longer than the gold is not searched for repetitions."""

_ORDERED = frozenset(("tuple", "vector", "bracket"))
_UNCERTAIN = frozenset(("if", "assuming", "otherwise"))
"""With these an answer says that its value need not be right."""

_NEEDED = frozenset(("with", "such that", "if", "provided", "otherwise"))
"""With these a gold says which of several things is meant."""


class Comparison:
    """Compares shapes and notes why an answer was refused.

    Args:
        allow_unevaluated: Skip the guard against arithmetic that is left to the grader.
    """

    def __init__(self, *, allow_unevaluated: bool = False) -> None:
        self.allow_unevaluated = allow_unevaluated
        self.notes: list[str] = []

    def same(self, gold: Shape, answer: Shape) -> bool:
        """Whether ``answer`` says what ``gold`` says."""
        if gold.text == answer.text and not isinstance(gold, Words):
            return True
        if isinstance(gold, Conditional) or isinstance(answer, Conditional):
            return self._conditional(gold, answer)
        if not isinstance(gold, Group):
            answer = without_conditions(answer)
        match gold:
            case Words():
                return self._words(gold, answer)
            case Quantity():
                return self._quantity(gold, answer)
            case Group():
                return self._group(gold, answer)
            case Interval() | Combined():
                return self._set(gold, answer)
            case Matrix():
                return self._matrix(gold, answer)
            case Relation():
                return self._relation(gold, answer)
            case Based() | Ratio() | Clock():
                return self._numeral(gold, answer)
            case Opaque():
                return self._library(gold, answer)

    def _conditional(self, gold: Shape, answer: Shape) -> bool:
        """A condition may be left out where it only says what the letters stand for; two have to agree."""
        if not isinstance(gold, Conditional):
            assert isinstance(answer, Conditional)
            if isinstance(gold, Quantity) and is_number(gold.node) and answer.opener in _UNCERTAIN:
                return self._refuse("a value under a condition")
            return self.same(gold, answer.value)
        if not isinstance(answer, Conditional):
            return (
                self._refuse("no condition")
                if cases(answer) or gold.opener in _NEEDED
                else self.same(gold.value, answer)
            )
        related = [isinstance(side.about, (Relation, Group)) for side in (gold, answer)]
        if gold.words != answer.words or related[0] != related[1]:
            return self._refuse("another condition")
        if gold.about and answer.about and not self.same(gold.about, answer.about):
            return self._refuse("another condition")
        return self.same(gold.value, answer.value)

    # -- words

    def _words(self, gold: Words, answer: Shape) -> bool:
        if same_words(gold.text, answer.text):
            return True
        if meaning(gold.text) is not None:
            sets = regions.region(gold), regions.region(answer)
            if sets[0] is not None and sets[1] is not None and not isinstance(answer, Words):
                return regions.same_region(sets[0], sets[1])
        if relations.is_assignment(answer) and isinstance(answer, Relation):
            return self.same(gold, answer.sides[-1])
        return False

    # -- numbers and expressions

    def _quantity(self, gold: Quantity, answer: Shape) -> bool:
        if regions.is_set_notation(gold):
            return self._set(gold, answer)
        match answer:
            case Quantity():
                return self._leaf(gold, answer) or is_chosen(gold, answer)
            case Relation():
                return self._side(gold, answer)
            case Group():
                return self._only_item(gold, answer) or is_chosen(gold, answer)
            case Ratio() if (quotient := numerals.quotient(answer, gold)) is not None:
                return self._leaf(gold, quotient)
            case Based():
                return self._leaf(gold, Quantity(answer.text, number(answer.value)))
            case Words():
                if gold.node.name in ("emptyset", "infty"):
                    return meaning(gold.text) == meaning(answer.text)
                return letters(gold.text) == plain(answer.text) or is_chosen(gold, answer)
            case Opaque() if not is_number(gold.node):
                return is_chosen(gold, answer) or self._library(gold, answer)
            case Opaque():
                left = guard.big_operators_in(answer.text)
                return self._refuse(
                    f"not worked out: {', '.join(sorted(left))}" if left else f"not read: {answer.reason}"
                )
        return is_chosen(gold, answer)

    def _leaf(self, gold: Quantity, answer: Quantity) -> bool:
        if is_number(gold.node) and not is_number(answer.node):
            answer = without_unit_letters(answer)
            if not is_number(answer.node):
                return self._refuse("a variable in an answer that should be a number")
        pairs = list(in_same_unit(gold, answer))
        if not pairs:
            return self._refuse("another unit")
        return any(self._pair(expected, got, gold, answer) for expected, got in pairs)

    def _pair(self, expected: Node, got: Node, gold: Quantity, answer: Quantity) -> bool:
        if is_number(expected) and not self.allow_unevaluated:
            left = guard.beyond(expected, got)
            if left:
                return self._refuse(guard.not_done(left))
        return self._equal(expected, got, gold, answer)

    def _equal(self, expected: Node, got: Node, gold: Quantity, answer: Quantity) -> bool:
        try:
            verdict = equal(expected, got)
        except Huge as error:
            if computable(gold.node):
                return self._refuse(str(error))
            verdict = None
        if verdict is None and is_number(expected) and computable(expected):
            if not has_value(expected):
                raise GoldUnreadable(f"{gold.text!r} has no value")
            if not has_value(got):
                return self._refuse("an answer without a value")
        return self._library(gold, answer) if verdict is None else verdict

    def _side(self, gold: Shape, answer: Relation) -> bool:
        """An answer such as ``x = 5``, ``a + b = 5``, ``1/3 ≈ 0.333``, ``x \\in \\{5\\}``."""
        if answer.signs == ("\\in",) and relations.is_label(answer.sides[0]):
            return self.same(gold, answer.sides[-1])
        if not set(answer.signs) <= relations.EQUALITY:
            return self._refuse("a relation where a value is wanted")
        if not (isinstance(gold, Quantity) and is_number(gold.node)):
            if not all(self._consistent(side, answer.sides[-1]) for side in answer.sides[:-1]):
                return self._refuse("the sides of the answer contradict each other")
            last = answer.sides[-2] if answer.signs[-1] == "\\approx" and len(answer.sides) > 2 else answer.sides[-1]
            return self.same(gold, last) or (answer.signs == ("\\approx",) and self.same(gold, answer.sides[0]))
        values = [side for side in answer.sides if isinstance(side, Quantity) and is_number(side.node)]
        work = values and guard.unevaluated(values[0].node) and not guard.unevaluated(values[-1].node)
        roughly = "\\approx" in answer.signs or bool(work)
        if not agree(values, roughly=roughly):
            return self._refuse("the sides of the answer contradict each other")
        named = all(side in values or relations.is_label(side) for side in answer.sides)
        if not named and any(value.node == number(0) for value in values):
            return self._refuse("an equation where a value is wanted")
        rest = [side for side in answer.sides[1:] if not isinstance(side, Quantity)]
        return any(self._leaf(gold, value) for value in values) or any(self.same(gold, side) for side in rest)

    def _consistent(self, side: Shape, last: Shape) -> bool:
        """Whether ``side = last`` may be true: it names the thing, speaks of other letters, or has the same value."""
        if relations.is_label(side) or type(side) is not type(last):
            return True
        if not (isinstance(side, Quantity) and isinstance(last, Quantity)):
            return self._alike(side, last)
        try:
            return not symbols(side.node) <= symbols(last.node) or equal(side.node, last.node) is not False
        except Huge:
            return True

    def _only_item(self, gold: Shape, answer: Group) -> bool:
        """A list counts as one value only when all its items are that value."""
        if not answer.items or (answer.kind in _ORDERED and len(answer.items) > 1):
            return self._refuse("several values where one is wanted") if answer.items else False
        good = sum(self.same(gold, item) for item in answer.items)
        if good < len(answer.items) and len(answer.items) > 1:
            return self._refuse("several values where one is wanted")
        return good > 0

    # -- several things

    def _group(self, gold: Group, answer: Shape) -> bool:
        if isinstance(answer, Relation) and set(answer.signs) <= {"=", "\\in"}:
            answer = answer.sides[-1] if relations.is_label(answer.sides[0]) else answer
        if cases(gold) != cases(answer):
            return self._refuse("cases that the gold does not tell apart" if cases(answer) else "no conditions")
        if gold.kind == "tuple" and (regions.is_set_notation(gold) or regions.is_set_notation(answer)):
            return self._set(gold, answer)
        if gold.kind == "bare" and regions.is_set_notation(gold):
            return self._set(gold, answer)
        if gold.kind in _ORDERED:
            return self._in_order(gold.items, ordered_items(gold, answer))
        if not gold.items:
            nothing = regions.region(answer)
            return nothing is not None and regions.is_empty(nothing)
        if isinstance(answer, Group) and answer.kind in ("bare", "set"):
            return self._in_any_order(gold.items, answer.items)
        if isinstance(answer, Group) and gold.kind == "bare" and answer.kind in _ORDERED and not values_by_name(gold):
            return self._in_order(gold.items, unless_pair(answer))
        if isinstance(answer, Combined):
            return self._set(gold, answer)
        named = values_by_name(gold)
        if named is not None and isinstance(answer, Group):
            return self._in_order(named, answer.items)
        if len(gold.items) == 1 or self._in_any_order(gold.items, gold.items[:1]):
            return self.same(gold.items[0], answer)
        return False

    def _in_order(self, gold: Sequence[Shape], answer: Sequence[Shape] | None) -> bool:
        if answer is None:
            return self._refuse("another kind of object")
        return len(gold) == len(answer) and all(self.same(g, a) for g, a in zip(gold, answer, strict=True))

    def _in_any_order(self, gold: Sequence[Shape], answer: Sequence[Shape]) -> bool:
        """Equal as sets: each gold item has its own answer item, repetitions aside."""
        if len(gold) != len(answer):
            if len(answer) > _MANY + 2 * len(gold):
                return self._refuse(f"{len(answer)} values where there are {len(gold)}")
            gold, answer = distinct(gold, self._alike), distinct(answer, self._alike)
            if len(gold) != len(answer):
                return self._refuse(f"{len(answer)} values where there are {len(gold)}")
        free = list(answer)
        for wanted in gold:
            match = next((item for item in free if self.same(wanted, item)), None)
            if match is None:
                return False
            free.remove(match)
        return True

    def _alike(self, one: Shape, other: Shape) -> bool:
        """Whether two parts of one text are the same; that one cannot be read says nothing about the gold."""
        try:
            return self.same(one, other)
        except GoldUnreadable:
            return False

    def _set(self, gold: Shape, answer: Shape) -> bool:
        """Sets of reals by their normal form; with letters in the ends, end by end."""
        if isinstance(answer, Relation) and "=" in answer.signs and relations.is_assignment(answer):
            answer = answer.sides[-1]
        left, right = regions.region(gold), regions.region(answer)
        if left is not None and right is not None:
            if isinstance(answer, Group) and answer.kind == "bare" and not regions.is_set_notation(answer):
                return self._refuse("another kind of object")
            return regions.same_region(left, right)
        gold, answer = right_side(gold), right_side(answer)
        if isinstance(gold, Combined) and isinstance(answer, Combined) and gold.operator == answer.operator:
            return self._in_any_order(gold.parts, answer.parts)
        if isinstance(gold, Interval) and isinstance(answer, Interval):
            ends = (gold.low_open, gold.high_open) == (answer.low_open, answer.high_open)
            return ends and self.same(gold.low, answer.low) and self.same(gold.high, answer.high)
        if isinstance(gold, Group) and isinstance(answer, Group) and gold.kind == answer.kind:
            compare = self._in_any_order if gold.kind == "bare" else self._in_order
            return compare(gold.items, answer.items)
        return self._refuse("another kind of object")

    def _matrix(self, gold: Matrix, answer: Shape) -> bool:
        if isinstance(answer, Relation):
            return self._side(gold, answer)
        if isinstance(answer, Matrix):
            return len(gold.rows) == len(answer.rows) and all(
                self._in_order(left, right) for left, right in zip(gold.rows, answer.rows, strict=True)
            )
        column = vector(gold)
        if column is not None and isinstance(answer, Group) and answer.kind in _ORDERED:
            return self._in_order(column, answer.items)
        if len(gold.rows) == len(gold.rows[0]) == 1:
            return self.same(gold.rows[0][0], answer)
        return self._refuse("another kind of object")

    # -- relations

    def _relation(self, gold: Relation, answer: Shape) -> bool:
        if not set(gold.signs) <= relations.EQUALITY:
            return self._inequality(gold, answer)
        if not isinstance(answer, Relation):
            if relations.is_assignment(gold):
                return any(self.same(side, answer) for side in gold.sides[1:])
            values = [side for side in gold.sides if isinstance(side, Quantity) and is_number(side.node)]
            chain = len(values) == len(gold.sides) and agree(values, roughly="\\approx" in gold.signs)
            return chain and any(self.same(side, answer) for side in values)
        if not set(answer.signs) <= relations.EQUALITY:
            return self._refuse("another relation")
        if relations.is_assignment(gold) and relations.is_assignment(answer):
            if relations.same_label(gold.sides[0], answer.sides[0]) and self._same_value(gold, answer):
                return True
        elif len(gold.sides) > 2 and self.same(gold.sides[-1], answer.sides[-1]):
            return True
        try:
            return self._in_order(gold.sides, answer.sides) or relations.same_equation(gold, answer)
        except Huge as error:
            return self._refuse(str(error))

    def _same_value(self, gold: Relation, answer: Relation) -> bool:
        value = answer.sides[-1]
        if isinstance(value, Quantity):
            value = Quantity(value.text, relations.renamed(gold.sides[0], answer.sides[0], value.node), value.unit)
        return any(self.same(side, value) for side in gold.sides[1:])

    def _inequality(self, gold: Relation, answer: Shape) -> bool:
        if isinstance(answer, Relation) and not same_variable(gold, answer):
            return self._refuse("another variable")
        if regions.region(gold) is not None:
            return self._set(gold, answer)
        if gold.signs == ("\\in",):
            return self.same(gold.sides[1], right_side(answer))
        if not isinstance(answer, Relation) or len(answer.sides) != len(gold.sides):
            return self._refuse("another kind of object")
        if gold.signs == answer.signs:
            return all(self.same(g, a) for g, a in zip(gold.sides, answer.sides, strict=True))
        if relations.mirrored(gold.signs) == answer.signs:
            return all(self.same(g, a) for g, a in zip(reversed(gold.sides), answer.sides, strict=True))
        return False

    def _numeral(self, gold: Based | Ratio | Clock, answer: Shape) -> bool:
        match gold, answer:
            case _, Relation():
                return self._side(gold, answer)
            case Based(), Based():
                return numerals.same_in_base(gold, answer)
            case Based(), _:
                return self._refuse("the base is missing")
            case Ratio(), Ratio():
                return numerals.same_ratio(gold, answer)
            case Ratio(), Quantity():
                quotient = numerals.quotient(gold, answer)
                return quotient is not None and self._leaf(quotient, answer)
            case Clock(), Clock():
                return numerals.same_time(gold, answer)
        return False

    # -- the rest

    def _library(self, gold: Shape, answer: Shape) -> bool:
        """Ask math-verify; the guard still holds for numbers."""
        if "".join(gold.text.split()) == "".join(answer.text.split()):
            return True
        if isinstance(answer, Opaque) and not isinstance(gold, Opaque):
            left = guard.big_operators_in(answer.text) - guard.big_operators_in(gold.text)
            if left and not self.allow_unevaluated:
                return self._refuse(guard.not_done(left))
        verdict = symbolic.verify(gold.text, answer.text)
        if verdict is None:
            if isinstance(gold, Opaque):
                raise GoldUnreadable(gold.reason)
            return self._refuse("no values to compare")
        if not verdict and isinstance(answer, Opaque):
            self.notes.append(f"not read: {answer.reason}")
        return verdict

    def _refuse(self, note: str) -> bool:
        self.notes.append(note)
        return False
