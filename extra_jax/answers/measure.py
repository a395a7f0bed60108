"""Expressions with units, money, percent and degrees, and what ± makes of them."""

import re
from fractions import Fraction

from extra_jax.answers import syntax
from extra_jax.answers.cut import CLOSE, OPEN, spell
from extra_jax.answers.equality import exact
from extra_jax.answers.shape import Group, Quantity, Shape
from extra_jax.answers.tokens import Reading, Token
from extra_jax.answers.tree import Node, number
from extra_jax.answers.units import CURRENCIES, DEGREE, GENERIC, LETTERS, NOUN, PERCENT, Unit, read_unit
from extra_jax.answers.vocabulary import Unreadable, names


def quantity(text: str, tokens: list[Token], reading: Reading) -> Shape:
    if (total := _several_units(text, tokens, reading)) is not None:
        return total
    tokens, unit, multiplier = _without_unit(list(tokens))
    node = syntax.parse(tokens, reading)
    if multiplier != 1:
        value = exact(node)
        node = number(value * multiplier) if value is not None else Node("mul", (node, number(multiplier)))
    variants = _without_signs(node)
    if len(variants) > 1:
        return Group(text, "bare", tuple(Quantity(text, variant, unit) for variant in variants), "or")
    last = tokens[-1]
    loose = last.text if last.kind == "sym" and last.spaced and last.text in LETTERS else ""
    return Quantity(text, node, unit, loose)


def _several_units(text: str, tokens: list[Token], reading: Reading) -> Quantity | None:
    """``5 feet 3 inches``, ``12 dollars and 50 cents``: the sum, when the units are of one kind."""
    cuts = [
        place + 1 for place, token in enumerate(tokens[:-1]) if token.kind == "text" and tokens[place + 1].kind == "num"
    ]
    if not cuts or tokens[-1].kind != "text":
        return None
    total, bases = Fraction(0), None
    for start, end in zip([0, *cuts], [*cuts, len(tokens)], strict=True):
        unit = read_unit(re.sub(r",|\band\b", " ", tokens[end - 1].text))
        value = exact(syntax.parse(tokens[start : end - 1], reading))
        if value is None or not unit.bases or unit.bases != (bases or unit.bases):
            return None
        total, bases = total + value * unit.factor, unit.bases
    return Quantity(text, number(total), Unit(bases or ()))


def _without_unit(tokens: list[Token]) -> tuple[list[Token], Unit | None, int]:
    """Split off a currency sign, a unit, ``%`` or degrees; the number is 10^6 for "million" and so on."""
    unit: Unit | None = None
    multiplier = 1
    for place in (0, 1):
        if len(tokens) > place + 1 and tokens[place].text in CURRENCIES and (place == 0 or tokens[0].text in "+-"):
            unit = CURRENCIES[tokens[place].text]
            del tokens[place]
    if len(tokens) > 1 and tokens[-1].text in CURRENCIES:
        unit = CURRENCIES[tokens.pop().text]
    start = _unit_start(tokens)
    if start:
        words = spell(tokens[start:])
        first = re.search("[A-Za-z]+", words.removeprefix("\\text"))
        if first and first.group() in _MULTIPLIERS:
            multiplier = _MULTIPLIERS[first.group()]
            words = words.replace(first.group(), "", 1)
        named = read_unit(words)
        unit = named if unit is None else unit
        tokens = tokens[:start]
    if len(tokens) > 2 and tokens[-2].text == "\\deg" and tokens[-1].text.strip() in ("C", "F"):
        return tokens[:-2], read_unit({"C": "celsius", "F": "fahrenheit"}[tokens[-1].text.strip()]), 1
    if len(tokens) > 1 and tokens[-1].text == "%":
        return tokens[:-1], PERCENT, 1
    if len(tokens) > 1 and tokens[-1].text == "\\deg" and not any(token.text in _TRIGONOMETRIC for token in tokens):
        return tokens[:-1], unit if unit not in (None, GENERIC, NOUN) else DEGREE, 1
    return tokens, unit, multiplier


_MULTIPLIERS = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
_TRIGONOMETRIC = frozenset(f"\\{name}" for name in names("sin cos tan cot sec csc"))


def _unit_start(tokens: list[Token]) -> int:
    """Where a trailing unit begins; 0 when there is none."""
    depth = 0
    for place, token in enumerate(tokens):
        if token.kind != "text":
            depth += (token.text in OPEN) - (token.text in CLOSE)
            continue
        word = token.text.strip()
        if depth or place == 0 or (len(word) == 1 and word not in LETTERS) or tokens[place - 1].text == "_":
            continue
        rest = tokens[place:]
        known = all(
            part.kind == "text"
            or part.text in ("^", "{", "}", "/", "\\cdot", "-", ".")
            or (part.kind == "num" and tokens[place + step - 1].text in ("^", "{", "-"))
            for step, part in enumerate(rest)
        )
        words = sum(len(part.text.split()) for part in rest if part.kind == "text")
        if known and words <= 6:
            return place - 1 if place > 1 and tokens[place - 1].text in ("\\cdot", "\\times") else place
    return 0


def _without_signs(node: Node) -> list[Node]:
    """All choices of the ± in ``node``; a ∓ goes against the ±, several ± without ∓ are independent."""
    marks = [part for part in node.walk() if part.op in ("pm", "mp")]
    if not marks:
        return [node]
    linked = any(part.op == "mp" for part in marks)
    if len(marks) > 6:
        raise Unreadable("too many ±")
    patterns = [[sign] * len(marks) for sign in (1, -1)] if linked else []
    if not linked:
        patterns = [[1 if bits >> place & 1 else -1 for place in range(len(marks))] for bits in range(1 << len(marks))]
    return [_signed(node, list(pattern)) for pattern in patterns]


def _signed(node: Node, signs: list[int]) -> Node:
    if node.op not in ("pm", "mp"):
        return Node(node.op, tuple(_signed(child, signs) for child in node.args), node.name, node.value)
    sign = signs.pop(0) * (1 if node.op == "pm" else -1)
    *left, right = (_signed(child, signs) for child in node.args)
    term = right if sign > 0 else Node("neg", (right,))
    return Node("add", (left[0], term)) if left else term
