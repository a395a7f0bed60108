"""Values of expressions.

Rational arithmetic is exact (``Fraction``), everything else is computed with mpmath at a precision that the caller
chooses. All operations are bounded: what would not fit raises ``Huge``.
"""

import hashlib
import math
import threading
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import mpmath

from extra_jax.answers.tree import Node

Value = Any
"""``Fraction``, ``mpf`` or ``mpc``."""

_EXACT_BITS = 60_000
_MAGNITUDE_BITS = 10**8
_local = threading.local()


class Undefined(ArithmeticError):
    """No value here (division by zero, logarithm of zero, an operation that is not known)."""


class Huge(ArithmeticError):
    """The value exists but is far too large or too costly to compute."""


def _context() -> mpmath.ctx_mp.MPContext:
    if not hasattr(_local, "context"):
        _local.context = mpmath.MPContext()
    return _local.context


class Evaluator:
    """Value of nodes for given variables and precision.

    Args:
        variables: Value of each symbol.
        digits: Decimal digits of what is not exact.
        log_base: Base of a bare ``\\log``: 10 or, with ``None``, e.
        real: Nothing may leave the real numbers on the way, so that √x√y and √(xy) agree wherever both exist.
    """

    def __init__(
        self, variables: Mapping[str, Fraction], digits: int, log_base: int | None = None, *, real: bool = False
    ) -> None:
        self.ctx = _context()
        self.ctx.dps = digits
        self.variables = variables
        self.log_base = log_base
        self.real = real

    def __call__(self, node: Node) -> Value:
        """The value of ``node``; raises ``Undefined`` or ``Huge``."""
        try:
            value = getattr(self, f"_{node.op}")(node)
        except (ZeroDivisionError, ValueError, TypeError, mpmath.libmp.NoConvergence) as error:
            raise Undefined(str(error)) from error
        except OverflowError as error:
            raise Huge(str(error)) from error
        if self.real and isinstance(value, self.ctx.mpc):
            raise Undefined("not real")
        return value

    # -- leaves

    def _num(self, node: Node) -> Value:
        return node.value

    def _sym(self, node: Node) -> Value:
        return self.variables[node.name]

    def _const(self, node: Node) -> Value:
        ctx = self.ctx
        if node.name == "infty":
            return ctx.inf
        if node.name == "deg":
            return ctx.pi / 180
        return {"pi": +ctx.pi, "e": +ctx.e, "i": ctx.mpc(0, 1)}[node.name]

    # -- arithmetic

    def _neg(self, node: Node) -> Value:
        return -self(node.args[0])

    def _add(self, node: Node) -> Value:
        total: Value = Fraction(0)
        for child in node.args:
            total = self._sum(total, self(child))
        return total

    def _mul(self, node: Node) -> Value:
        total: Value = Fraction(1)
        for child in node.args:
            total = self.product(total, self(child))
        return total

    def _div(self, node: Node) -> Value:
        top, bottom = (self(child) for child in node.args)
        if bottom == 0:
            raise Undefined("division by zero")
        if isinstance(top, Fraction) and isinstance(bottom, Fraction):
            return self._bounded(top / bottom)
        return self.inexact(top) / self.inexact(bottom)

    def _sum(self, left: Value, right: Value) -> Value:
        if isinstance(left, Fraction) and isinstance(right, Fraction):
            return self._bounded(left + right)
        return self.inexact(left) + self.inexact(right)

    def product(self, left: Value, right: Value) -> Value:
        """The product of two values."""
        if isinstance(left, Fraction) and isinstance(right, Fraction):
            return self._bounded(left * right)
        return self.inexact(left) * self.inexact(right)

    def _bounded(self, value: Fraction) -> Value:
        size = value.numerator.bit_length() + value.denominator.bit_length()
        return value if size <= 2 * _EXACT_BITS else self.inexact(value)

    def inexact(self, value: Value) -> Value:
        """``value`` as an mpmath number."""
        if isinstance(value, Fraction):
            return self.ctx.mpf(value.numerator) / value.denominator
        return value

    # -- powers and roots

    def _pow(self, node: Node) -> Value:
        return self._power(*(self(child) for child in node.args))

    def _power(self, base: Value, exponent: Value) -> Value:
        if isinstance(exponent, Fraction) and isinstance(base, Fraction):
            if exponent.denominator == 1:
                return self._integer_power(base, exponent.numerator)
            if exponent.denominator <= 64:
                return self._power(self._nth_root(base, exponent.denominator), Fraction(exponent.numerator))
        if base == 0:
            if self.ctx.re(self.inexact(exponent)) > 0:
                return Fraction(0)
            raise Undefined("zero to a power that is not positive")
        base, exponent = self.inexact(base), self.inexact(exponent)
        bits = abs(exponent) * (abs(self.ctx.mag(base)) + 1) if not self.ctx.isinf(exponent) else _MAGNITUDE_BITS + 1
        if bits > _MAGNITUDE_BITS:
            raise Huge("a power too large to compute")
        return self.ctx.power(base, exponent)

    def _integer_power(self, base: Fraction, exponent: int) -> Value:
        if base == 0 and exponent < 0:
            raise Undefined("zero to a negative power")
        if base in (0, 1, -1):
            return base ** (exponent % 2 if base == -1 else min(exponent, 1) if base == 0 else 0)
        bits = abs(exponent) * max(base.numerator.bit_length(), base.denominator.bit_length())
        if bits <= _EXACT_BITS:
            return base**exponent
        if bits > _MAGNITUDE_BITS:
            raise Huge("a power too large to compute")
        return self.ctx.power(self.inexact(base), exponent)

    def _root(self, node: Node) -> Value:
        degree, radicand = (self(child) for child in node.args)
        if isinstance(degree, Fraction) and degree.denominator == 1 and 1 <= degree <= 64:
            return self._nth_root(radicand, int(degree))
        return self._power(radicand, 1 / degree)

    def _nth_root(self, value: Value, degree: int) -> Value:
        """The real root where there is one, else the principal one; exact for perfect powers."""
        if isinstance(value, Fraction):
            if value < 0 and degree % 2:
                return -self._nth_root(-value, degree)
            if value >= 0:
                top, bottom = _exact_root(value.numerator, degree), _exact_root(value.denominator, degree)
                if top is not None and bottom is not None:
                    return Fraction(top, bottom)
        number = self.inexact(value)
        if degree % 2 and not isinstance(number, self.ctx.mpc) and number < 0:
            return -self.ctx.root(-number, degree)
        return self.ctx.sqrt(number) if degree == 2 else self.ctx.root(number, degree)

    # -- functions

    def _call(self, node: Node) -> Value:
        args = [self(child) for child in node.args]
        if node.name.startswith("function "):
            return self._unknown(node.name, args)
        function = _CALLS.get(node.name)
        if function is None:
            raise Undefined(f"the function {node.name!r}")
        return function(self, *args)

    def _pm(self, node: Node) -> Value:
        raise Undefined("±")

    _mp = _pm

    def _unknown(self, name: str, args: list[Value]) -> Value:
        """A fixed arbitrary value for a named function: equal arguments give equal values."""
        spelled = [self.ctx.nstr(self.inexact(arg), 12) for arg in args]
        digest = hashlib.sha256("|".join([name, *spelled]).encode()).digest()
        return Fraction(int.from_bytes(digest[:4], "big"), 2**30) + Fraction(1, 7)

    def elementary(self, name: str, value: Value) -> Value:
        """A function of mpmath, with the size of its argument bounded."""
        number = self.inexact(value)
        limit = 40 if name in ("sinh", "cosh", "tanh", "coth", "sech", "csch") else 20_000
        if not self.ctx.isinf(number) and number != 0 and self.ctx.mag(number) > limit:
            raise Huge(f"{name} of a very large number")
        return getattr(self.ctx, name)(number)

    def logarithm(self, value: Value, base: Value | None) -> Value:
        """Logarithm to ``base``, natural for ``None``."""
        if value == 0:
            raise Undefined("logarithm of zero")
        top = self.ctx.log(self.inexact(value))
        if base is None:
            return top
        bottom = self.ctx.log(self.inexact(base))
        if bottom == 0:
            raise Undefined("logarithm to base one")
        return top / bottom

    def rounded(self, value: Value, exact: Callable[[Fraction], int], name: str) -> Value:
        """Floor or ceiling; a value within the rounding error of an integer is that integer."""
        if isinstance(value, Fraction):
            return Fraction(exact(value))
        if isinstance(value, self.ctx.mpc) or self.ctx.isinf(value) or self.ctx.mag(value) > 10_000:
            raise Undefined(f"{name} of {self.ctx.nstr(value, 5)}")
        near = int(self.ctx.nint(value))
        if abs(value - near) < self.ctx.mpf(10) ** (-self.ctx.dps // 2):
            return Fraction(near)
        return Fraction(int(getattr(self.ctx, name)(value)))

    def factorial(self, value: Value) -> Value:
        """Factorial, by the gamma function where the argument is not a small integer."""
        if isinstance(value, Fraction) and value.denominator == 1:
            if value < 0:
                raise Undefined("factorial of a negative integer")
            if value <= 3000:
                return Fraction(math.factorial(int(value)))
        number = self.inexact(value)
        if self.ctx.isinf(number) or abs(number) > 10**7:
            raise Huge("factorial of a very large number")
        return self.ctx.gamma(number + 1)

    def binomial(self, top: Value, bottom: Value) -> Value:
        """Binomial coefficient, by the gamma function where the arguments are not small integers."""
        whole = all(isinstance(x, Fraction) and x.denominator == 1 for x in (top, bottom))
        if whole and 0 <= top <= 3000 and bottom <= 3000:
            return Fraction(math.comb(int(top), int(bottom)) if bottom >= 0 else 0)
        if max(abs(self.inexact(top)), abs(self.inexact(bottom))) > 10**7:
            raise Huge("binomial coefficient of very large numbers")
        return self.ctx.binomial(self.inexact(top), self.inexact(bottom))


def _exact_root(value: int, degree: int) -> int | None:
    if value.bit_length() > 4096:
        return None
    if degree == 2:
        root = math.isqrt(value)
        return root if root * root == value else None
    guess = int(mpmath.nint(mpmath.root(value, degree))) if value.bit_length() < 50 else 0
    return guess if guess**degree == value else None


def _whole(values: tuple[Value, ...]) -> list[int]:
    if not all(isinstance(value, Fraction) and value.denominator == 1 for value in values):
        raise Undefined("gcd or lcm of something that is not an integer")
    return [int(value) for value in values]


def _real(evaluator: Evaluator, values: tuple[Value, ...]) -> list[Value]:
    if any(isinstance(value, evaluator.ctx.mpc) for value in values):
        raise Undefined("order of complex numbers")
    return list(values)


def _largest(evaluator: Evaluator, *values: Value, smallest: bool = False) -> Value:
    ordered = sorted(_real(evaluator, values), key=evaluator.inexact)
    return ordered[0 if smallest else -1]


def _mpmath(name: str) -> Callable[[Evaluator, Value], Value]:
    return lambda evaluator, value: evaluator.elementary(name, value)


_CALLS: dict[str, Callable[..., Value]] = {
    **{name: _mpmath(name) for name in ("sin", "cos", "tan", "cot", "sec", "csc")},
    **{name: _mpmath(name) for name in ("sinh", "cosh", "tanh", "coth", "sech", "csch")},
    **{f"arc{name}": _mpmath(f"a{name}") for name in ("sin", "cos", "tan", "cot", "sec", "csc")},
    **{f"arc{name}h": _mpmath(f"a{name}h") for name in ("sin", "cos", "tan")},
    **{f"ar{name}h": _mpmath(f"a{name}h") for name in ("sin", "cos", "tan")},
    "ln": lambda evaluator, value: evaluator.logarithm(value, None),
    "log": lambda evaluator, value: evaluator.logarithm(value, evaluator.log_base),
    "log_base": lambda evaluator, value, base: evaluator.logarithm(value, base),
    "abs": lambda evaluator, value: abs(value),
    "floor": lambda evaluator, value: evaluator.rounded(value, math.floor, "floor"),
    "ceil": lambda evaluator, value: evaluator.rounded(value, math.ceil, "ceil"),
    "factorial": Evaluator.factorial,
    "factorial2": lambda evaluator, value: evaluator.ctx.fac2(evaluator.inexact(value)),
    "binom": Evaluator.binomial,
    "gcd": lambda evaluator, *values: Fraction(math.gcd(*_whole(values))),
    "lcm": lambda evaluator, *values: Fraction(math.lcm(*_whole(values))),
    "max": _largest,
    "min": lambda evaluator, *values: _largest(evaluator, *values, smallest=True),
    "Re": lambda evaluator, value: evaluator.ctx.re(evaluator.inexact(value)),
    "Im": lambda evaluator, value: evaluator.ctx.im(evaluator.inexact(value)),
    "sgn": lambda evaluator, value: Fraction(int(evaluator.ctx.sign(evaluator.inexact(value)))),
    "arg": lambda evaluator, value: evaluator.ctx.arg(evaluator.inexact(value)),
}
