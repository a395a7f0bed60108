"""What kind of thing an answer is: number or expression, words, pair, set, list, interval, matrix, relation, ..."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from extra_jax.answers.tree import Node
from extra_jax.answers.units import Unit


@dataclass(frozen=True)
class Quantity:
    """A number or expression with its unit, if any.

    Attributes:
        loose_unit: Last letter when it stands apart and may be a unit, as in ``5 m``.
    """

    text: str
    node: Node
    unit: Unit | None = None
    loose_unit: str = ""


@dataclass(frozen=True)
class Words:
    """Text: a name, a choice, yes or no."""

    text: str


@dataclass(frozen=True)
class Group:
    """Several things.

    Attributes:
        kind: ``bare`` (only commas, "and", "or"), ``set`` (braces), ``tuple`` (parentheses; two of them may be an open
            interval), ``bracket`` (three or more in brackets) or ``vector`` (angle brackets).
        items: The parts in order.
        joined: The word between them, ``","``, ``"and"`` or ``"or"``.
    """

    text: str
    kind: Literal["bare", "set", "tuple", "bracket", "vector"]
    items: "tuple[Shape, ...]"
    joined: str = ","


@dataclass(frozen=True)
class Interval:
    """An interval with at least one bracket."""

    text: str
    low: "Shape"
    high: "Shape"
    low_open: bool
    high_open: bool


@dataclass(frozen=True)
class Combined:
    """Union, intersection or difference of sets."""

    text: str
    operator: Literal["\\cup", "\\cap", "\\setminus"]
    parts: "tuple[Shape, ...]"


@dataclass(frozen=True)
class Matrix:
    """Rows of a matrix; a column vector has rows of one."""

    text: str
    rows: "tuple[tuple[Shape, ...], ...]"


@dataclass(frozen=True)
class Relation:
    """A chain such as ``x = 5``, ``1 < x \\le 2``, ``x \\in [0, 1)``."""

    text: str
    sides: "tuple[Shape, ...]"
    signs: tuple[str, ...]


@dataclass(frozen=True)
class Based:
    """A number written in a base."""

    text: str
    value: Fraction
    base: int


@dataclass(frozen=True)
class Clock:
    """A time of day or a duration with colons."""

    text: str
    parts: tuple[int, ...]
    half: str


@dataclass(frozen=True)
class Ratio:
    """``3:2`` or ``1:2:3``."""

    text: str
    parts: "tuple[Shape, ...]"


@dataclass(frozen=True)
class Conditional:
    """A value that holds under a condition: ``2 for odd n``, ``k + 1 where k \\ge 1``, a row of ``cases``.

    Attributes:
        words: What the condition says in words that tell cases apart, such as "odd".
        about: The rest of the condition.
        opener: The word with which the condition begins.
    """

    text: str
    value: "Shape"
    words: frozenset[str]
    about: "Shape | None"
    opener: str


@dataclass(frozen=True)
class Opaque:
    """Something that this module cannot read, and why."""

    text: str
    reason: str


Shape = (
    Quantity | Words | Group | Interval | Combined | Matrix | Relation | Based | Clock | Ratio | Conditional | Opaque
)
