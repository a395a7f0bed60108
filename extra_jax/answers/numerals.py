"""Numerals that are no plain number: with a base, ratios, times of day."""

from extra_jax.answers.equality import equal
from extra_jax.answers.shape import Based, Clock, Quantity, Ratio
from extra_jax.answers.tree import Node, is_number


def same_in_base(gold: Based, answer: Based) -> bool:
    """``52_8`` is neither ``42`` nor ``52_{16}``."""
    return (gold.value, gold.base) == (answer.value, answer.base)


def same_ratio(gold: Ratio, answer: Ratio) -> bool:
    """Whether ``2:3`` is ``4:6``: all parts are quantities, and each pair multiplies crosswise as the first."""
    parts = (*gold.parts, *answer.parts)
    if len(gold.parts) != len(answer.parts) or not all(isinstance(part, Quantity) for part in parts):
        return False
    (a, b), *others = (
        (one.node, other.node)
        for one, other in zip(gold.parts, answer.parts, strict=True)
        if isinstance(one, Quantity) and isinstance(other, Quantity)
    )
    return all(bool(equal(Node("mul", (a, d)), Node("mul", (b, c)))) for c, d in others)


def quotient(ratio: Ratio, other: Quantity) -> Quantity | None:
    """A ratio of two quantities as a fraction, where the other side is written as one; else ``None``."""
    match ratio.parts:
        case (Quantity(node=top), Quantity(node=bottom)) if other.node.op == "div" and is_number(other.node):
            return Quantity(ratio.text, Node("div", (top, bottom)))
    return None


def same_time(gold: Clock, answer: Clock) -> bool:
    """Equal to the second; where one says no half of the day, either fits."""
    size = max(len(gold.parts), len(answer.parts))
    left, right = ((*clock.parts, 0, 0, 0)[:size] for clock in (gold, answer))
    return left == right and (not gold.half or not answer.half or gold.half == answer.half)
