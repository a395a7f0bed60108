"""The small tree that an expression becomes."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Node:
    """One node.

    Attributes:
        op: ``num``, ``const``, ``sym``, ``neg``, ``add``, ``mul``, ``div``, ``pow``, ``root`` (degree, radicand),
            ``call`` or ``pm``/``mp`` (a ± b, a ∓ b; one argument for ±b).
        args: Children.
        name: Name of a constant, symbol or function.
        value: Value of a number.
    """

    op: str
    args: tuple["Node", ...] = ()
    name: str = ""
    value: Fraction = Fraction(0)

    def walk(self) -> Iterator["Node"]:
        """This node and everything below it."""
        yield self
        for child in self.args:
            yield from child.walk()

    def height(self) -> int:
        """Levels of this tree, counted without recursion."""
        level: list[Node] = [self]
        height = 0
        while level:
            height += 1
            level = [child for node in level for child in node.args]
        return height


def number(value: int | Fraction) -> Node:
    """The node of an exact number."""
    return Node("num", value=Fraction(value))


def total(terms: list[Node]) -> Node:
    """The sum of ``terms``."""
    return terms[0] if len(terms) == 1 else Node("add", tuple(terms))


def product_of(factors: list[Node]) -> Node:
    """The product of ``factors``."""
    return factors[0] if len(factors) == 1 else Node("mul", tuple(factors))


def symbols(node: Node) -> frozenset[str]:
    """Names of the variables of ``node``."""
    return frozenset(part.name for part in node.walk() if part.op == "sym")


def is_number(node: Node) -> bool:
    """Whether ``node`` has no variables and no unknown functions."""
    return not any(part.op in ("sym", "pm", "mp") or part.name.startswith("function ") for part in node.walk())


def substitute(node: Node, name: str, value: Node) -> Node:
    """``node`` with ``value`` for each symbol ``name``."""
    if node.op == "sym" and node.name == name:
        return value
    return Node(node.op, tuple(substitute(child, name, value) for child in node.args), node.name, node.value)
