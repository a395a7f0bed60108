"""Is an answer worked out, or does it leave the arithmetic to the grader?

Where the gold is a number the answer has to be a closed-form literal: digits, fractions, roots, powers, π, e, i and
sums or products that cannot be carried out (1 + √2, 2√3). ``123 \\times 456``, ``2 + 2``, ``\\sum_{k=1}^{10} k`` and
``5!`` restate the problem. What the gold itself leaves standing the answer may leave standing too.
"""

import re

from extra_jax.answers.equality import exact
from extra_jax.answers.tree import Node
from extra_jax.answers.vocabulary import BIG_OPERATORS, names

_LARGE = 1000
"""A power of at least this size may stand beside an integer: ``2^{100} - 1``."""

_ELEMENTARY = frozenset(
    names("sin cos tan cot sec csc arcsin arccos arctan arccot arcsec arccsc sinh cosh tanh coth log ln log_base")
)
_COUNTING = frozenset(("factorial", "factorial2", "binom"))


def unevaluated(node: Node) -> frozenset[str]:
    """What is left to do in a number: ``sum``, ``product``, ``function``, ``factorial or binomial`` or a name."""
    found: set[str] = set()
    for part in node.walk():
        if part.op == "add" and _open_sum(part):
            found.add("sum")
        elif part.op == "mul" and _open_product(part):
            found.add("product")
        elif part.op == "call":
            found.add(_kind_of_call(part.name))
    return frozenset(found)


def beyond(gold: Node, answer: Node) -> frozenset[str]:
    """What ``answer`` leaves to do and ``gold`` does not."""
    left = unevaluated(answer) - unevaluated(gold)
    if not left and is_literal(gold) and _hides_rational(answer):
        left = frozenset(("a number that is not simplified",))
    return left


def big_operators_in(text: str) -> frozenset[str]:
    """Sums, products, integrals and limits named in a cleaned text."""
    return frozenset(name for name in re.findall(r"\\([a-z]+)", text) if name in BIG_OPERATORS)


def is_literal(node: Node) -> bool:
    """Whether ``node`` is a rational number written with digits, a fraction bar or powers."""
    return all(part.op in ("num", "neg", "div", "pow") for part in node.walk())


def _kind_of_call(name: str) -> str:
    if name in _ELEMENTARY:
        return "function"
    return "factorial or binomial" if name in _COUNTING else name


def _rational(node: Node) -> bool:
    """Whether a term or factor is a rational number."""
    if any(part.op in ("sym", "const", "call") for part in node.walk()):
        return False
    if exact(node) is not None:
        return True
    return is_literal(node) and all(_is_integer(part.args[1]) for part in node.walk() if part.op == "pow")


def _open_sum(node: Node) -> bool:
    rational = [term for term in node.args if _rational(term)]
    imaginary = [term for term in node.args if term not in rational and _imaginary(term)]
    if len(rational) == 2 and sum(map(_is_integer, rational)) == 1 and any(map(_is_large_power, rational)):
        return len(imaginary) > 1
    return len(rational) > 1 or len(imaginary) > 1


def _imaginary(term: Node) -> bool:
    names = [part for part in term.walk() if part.op in ("sym", "const", "call", "root")]
    return len(names) == 1 and names[0].name == "i" and not any(part.op in ("pow", "add") for part in term.walk())


def _is_integer(term: Node) -> bool:
    inner = term.args[0] if term.op == "neg" else term
    return inner.op == "num" and inner.value.denominator == 1


def _is_large_power(term: Node) -> bool:
    inner = term.args[0] if term.op == "neg" else term
    if inner.op != "pow":
        return False
    value = exact(inner)
    return value is None or abs(value) >= _LARGE


def _open_product(node: Node) -> bool:
    factors = [factor for factor in node.args if _rational(factor) or _gaussian(factor)]
    if len(factors) < 2:
        return False
    last = factors[-1]
    scientific = len(node.args) == 2 and last.op == "pow" and last.args[0].value == 10 and _is_numeral(node.args[0])
    return not scientific


def _gaussian(node: Node) -> bool:
    """A complex number such as 1 + 2i, but not i itself."""
    parts = list(node.walk())
    return (
        node.op == "add"
        and any(part.name == "i" for part in parts)
        and all(part.op in ("num", "neg", "div", "pow", "add", "mul") or part.name == "i" for part in parts)
    )


def _is_numeral(node: Node) -> bool:
    return (node.args[0] if node.op == "neg" else node).op == "num"


def _hides_rational(node: Node) -> bool:
    """Whether irrational parts of sums, products or fractions have to cancel; exponents aside, as in e^(iπ)."""
    if node.op in ("add", "mul", "div") and not all(_rational(child) for child in node.args):
        names = {below.name for below in node.walk() if below.op in ("const", "call")}
        if not names <= {"deg"} or any(below.op == "root" for below in node.walk()):
            return True
    children = node.args[:1] if node.op == "pow" else node.args
    return any(_hides_rational(child) for child in children)


def not_done(left: frozenset[str]) -> str:
    """The note about operations that an answer leaves to the grader."""
    return f"not worked out: {', '.join(sorted(left))}"
