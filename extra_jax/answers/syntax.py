"""Expressions: from tokens to a small tree.

The grammar is that of answers, not of LaTeX: implicit products, mixed numbers, functions without parentheses,
``\\frac12``, accents and subscripts as part of a name. What it does not know it refuses with ``Unreadable``.
"""

from fractions import Fraction

from extra_jax.answers.tokens import Reading, Token
from extra_jax.answers.tree import Node, number, product_of, total
from extra_jax.answers.vocabulary import BIG_OPERATORS, FUNCTIONS, MAX_DEPTH, TooLarge, Unreadable, names

_CONSTANTS = {"e": "e", "i": "i", "\\pi": "pi", "\\infty": "infty"}
_ACCENTS = frozenset(
    names(
        "overline bar hat vec tilde dot ddot widehat widetilde overrightarrow overleftrightarrow overparen "
        "mathbb acute breve check ring"
    )
)
_MARKS = frozenset(names("angle triangle measuredangle odot sphericalangle"))
_PRODUCT = frozenset(("\\cdot", "\\times", "*"))
_QUOTIENT = frozenset(("/", "\\div"))
_RELATIONS = frozenset(names("= < > \\le \\ge \\ne \\approx \\in \\notin \\equiv \\sim \\to \\Rightarrow \\subset"))
_STOP_SYMBOLS = _RELATIONS | _PRODUCT | _QUOTIENT | {
    "\\cup", "\\cap", "\\setminus", "\\pm", "\\mp", "\\rangle", "\\rfloor", "\\rceil", "\\newrow", "\\end",
    "\\dots", "\\deg", "\\or",
}  # fmt: skip
_OPENERS = {"(": ")", "[": "]", "{": "}", "\\{": "\\}", "\\lfloor": "\\rfloor", "\\lceil": "\\rceil"}
_ALWAYS_FUNCTIONS = frozenset("fghFGH")


def parse(tokens: list[Token], reading: Reading) -> Node:
    """The tree of all ``tokens``; raises ``Unreadable`` or ``TooLarge``."""
    parser = _Parser(tokens, reading)
    node = parser.sum()
    if parser.place < len(parser.tokens):
        raise Unreadable(f"unexpected {parser.tokens[parser.place].text!r}")
    if node.height() > 2 * MAX_DEPTH:
        raise TooLarge(f"nested deeper than {MAX_DEPTH}")
    return node


class _Parser:
    def __init__(self, tokens: list[Token], reading: Reading) -> None:
        self.tokens = list(tokens)
        self.reading = reading
        self.place = 0
        self.depth = 0
        self.bars = 0

    # -- looking at tokens

    def peek(self, ahead: int = 0) -> str:
        place = self.place + ahead
        return self.tokens[place].text if place < len(self.tokens) and self.tokens[place].kind != "text" else ""

    def kind(self, ahead: int = 0) -> str:
        place = self.place + ahead
        return self.tokens[place].kind if place < len(self.tokens) else ""

    def take(self) -> Token:
        if self.place >= len(self.tokens):
            raise Unreadable("it ends too early")
        self.place += 1
        return self.tokens[self.place - 1]

    def expect(self, text: str) -> None:
        if self.peek() != text:
            raise Unreadable(f"missing {text!r}")
        self.place += 1

    def matching(self) -> int:
        """Place of the token that closes the group that opens here."""
        depth = 0
        for place in range(self.place, len(self.tokens)):
            if self.tokens[place].text in ("(", "[", "{"):
                depth += 1
            elif self.tokens[place].text in (")", "]", "}"):
                depth -= 1
                if depth == 0:
                    return place
        raise Unreadable("a group does not close")

    # -- sums and products

    def sum(self) -> Node:
        self.deeper()
        terms: list[Node] = []
        while True:
            sign = self.sign()
            term = self.product()
            if sign in ("pm", "mp"):
                left = (total(terms),) if terms else ()
                terms = [Node(sign, (*left, term))]
            else:
                terms.append(Node("neg", (term,)) if sign == "-" else term)
            if self.peek() not in ("+", "-", "\\pm", "\\mp"):
                break
        self.depth -= 1
        return total(terms)

    def sign(self) -> str:
        sign = "+"
        while (text := self.peek()) in ("+", "-", "\\pm", "\\mp"):
            self.place += 1
            if text == "-":
                sign = "-" if sign == "+" else "+"
            elif text != "+":
                sign = text[1:]
        return sign

    def product(self) -> Node:
        factors = [self.power()]
        while True:
            text = self.peek()
            if text in _PRODUCT:
                self.place += 1
                factors.append(self.signed_power())
            elif text in _QUOTIENT:
                self.place += 1
                bottom = self.signed_power()
                if self.reading.tight_slash:
                    while self.starts_factor():
                        bottom = product_of([bottom, self.power()])
                factors = [Node("div", (product_of(factors), bottom))]
            elif self.starts_factor():
                if self.kind() == "num" and self.tokens[self.place - 1].kind == "num":
                    raise Unreadable("two numbers side by side")
                factors.append(self.power())
            else:
                return product_of(factors)

    def signed_power(self) -> Node:
        sign = self.sign()
        if sign in ("pm", "mp"):
            raise Unreadable("± after an operator")
        node = self.power()
        return Node("neg", (node,)) if sign == "-" else node

    def starts_factor(self) -> bool:
        kind, text = self.kind(), self.peek()
        if kind == "num":
            return True
        if kind == "sym":
            return text not in _STOP_SYMBOLS
        if kind == "text":
            return len(self.tokens[self.place].text.strip()) == 1
        return text in ("(", "[", "{") or (text == "|" and not self.bars)

    # -- powers and what follows an atom

    def power(self) -> Node:
        base = self.postfix(self.atom())
        if self.peek() != "^":
            return base
        self.place += 1
        return self.postfix(Node("pow", (base, self.exponent())))

    def exponent(self) -> Node:
        if self.peek() == "{":
            return self.group()
        self.deeper()
        sign = self.sign()
        node = self.postfix(self.atom())
        if self.peek() == "^":
            self.place += 1
            node = Node("pow", (node, self.exponent()))
        self.depth -= 1
        return Node("neg", (node,)) if sign == "-" else node

    def postfix(self, node: Node) -> Node:
        while True:
            text = self.peek()
            if text == "!":
                self.place += 1
                double = self.peek() == "!"
                self.place += double
                node = Node("call", (node,), "factorial2" if double else "factorial")
            elif text == "%":
                self.place += 1
                node = Node("div", (node, number(100)))
            elif text == "\\deg":
                self.place += 1
                node = product_of([node, Node("const", name="deg")])
            else:
                return node

    # -- atoms

    def group(self) -> Node:
        opener = self.take().text
        node = self.sum()
        self.expect(_OPENERS[opener])
        return node

    def deeper(self) -> None:
        """Count one more level; the caller takes it back when it is done."""
        self.depth += 1
        if self.depth > 2 * MAX_DEPTH:
            raise TooLarge(f"nested deeper than {MAX_DEPTH}")

    def atom(self) -> Node:
        self.deeper()
        node = self.one_atom()
        self.depth -= 1
        return node

    def one_atom(self) -> Node:
        token = self.take()
        if token.kind == "num":
            return self.number(token)
        if token.kind == "text":
            if len(token.text.strip()) != 1:
                raise Unreadable(f"the words {token.text.strip()!r}")
            return self.symbol(token.text.strip())
        text = token.text
        if text in ("(", "[", "{"):
            self.place -= 1
            return self.group()
        if text == "|":
            self.bars += 1
            node = self.sum()
            self.bars -= 1
            self.expect("|")
            return Node("call", (node,), "abs")
        if text in ("\\lfloor", "\\lceil"):
            self.place -= 1
            return Node("call", (self.group(),), "floor" if text == "\\lfloor" else "ceil")
        if token.kind == "sym" and text not in _STOP_SYMBOLS:
            return self.named(text)
        raise Unreadable(f"unexpected {text!r}")

    def number(self, token: Token) -> Node:
        assert token.value is not None
        node = number(token.value)
        if not token.text.isdigit():
            return node
        if self.peek() == "\\frac" or (self.kind() == "num" and self.tokens[self.place].spaced):
            return self.mixed(token.value) or node
        return node

    def mixed(self, whole: Fraction) -> Node | None:
        r"""``1\frac{4}{5}`` or ``1 4/5``, if that is what follows."""
        start, tokens = self.place, list(self.tokens)
        if self.peek() == "\\frac":
            self.place += 1
            top, bottom = self.argument(), self.argument()
        else:
            top_token = self.take()
            if self.peek() != "/" or self.kind(1) != "num":
                self.place = start
                return None
            self.place += 1
            top, bottom = number(top_token.value or 0), number(self.take().value or 0)
        integers = top.op == bottom.op == "num" and top.value.denominator == bottom.value.denominator == 1
        if integers and 0 < top.value < bottom.value and self.peek() not in ("^", "!"):
            return number(whole + top.value / bottom.value)
        self.place, self.tokens = start, tokens
        return None

    def argument(self, *, digits: bool = False) -> Node:
        """One argument of a command; a bare number gives its first digit unless ``digits``."""
        if self.peek() == "{":
            return self.group()
        token = self.take()
        if token.kind == "num":
            if digits or len(token.text) == 1:
                return number(token.value or 0)
            if not token.text.isdigit():
                raise Unreadable(f"{token.text!r} as an argument without braces")
            self.place -= 1
            self.tokens[self.place] = Token("num", token.text[1:], Fraction(token.text[1:]))
            return number(int(token.text[0]))
        self.place -= 1
        return self.atom()

    def named(self, text: str) -> Node:
        name = text.removeprefix("\\")
        if text == "\\frac":
            top = self.argument()
            return Node("div", (top, self.argument()))
        if text == "\\binom":
            top = self.argument()
            return Node("call", (top, self.argument()), "binom")
        if text == "\\sqrt":
            return self.root()
        if text.startswith("\\") and name in FUNCTIONS:
            return self.function(name)
        if name in BIG_OPERATORS and text.startswith("\\"):
            raise Unreadable(f"the operator {text}")
        if text in _CONSTANTS and self.peek() != "_":
            return Node("const", name=_CONSTANTS[text])
        if text.startswith("\\") and name in _ACCENTS:
            return self.symbol(f"{name}[{self.raw_argument()}]")
        if text.startswith("\\") and name in _MARKS:
            letters = ""
            while self.kind() == "sym" and len(self.peek()) == 1:
                letters += self.take().text
            return self.symbol(f"{name}[{letters}]")
        if text.startswith("\\") and name in ("begin", "end", "usd", "eur", "gbp", "jpy", "newrow", "text"):
            raise Unreadable(f"unexpected {text!r}")
        return self.symbol(name)

    def root(self) -> Node:
        degree = number(2)
        if self.peek() == "[":
            degree = self.group()
        if self.peek() == "(":
            return Node("root", (degree, self.group()))
        return Node("root", (degree, self.argument(digits=True)))

    def raw_argument(self) -> str:
        if self.peek() != "{":
            return self.take().text
        end = self.matching()
        body = "".join(token.text.strip() for token in self.tokens[self.place + 1 : end])
        self.place = end + 1
        return body.replace("{", "").replace("}", "")

    def symbol(self, name: str) -> Node:
        """A variable with its subscripts and primes, or a function of it such as ``f(x)``."""
        while True:
            text = self.peek()
            if text == "_":
                self.place += 1
                name += "_" + self.raw_argument()
            elif text == "'":
                self.place += 1
                name += "'"
            elif text == "^" and (primes := self.primes()):
                name += primes
            else:
                break
        if self.peek() == "(" and self.applies(name):
            args = self.call_arguments()
            if name == "C" and len(args) == 2:
                return Node("call", args, "binom")
            return Node("call", args, f"function {name}")
        return Node("sym", name=name)

    def primes(self) -> str:
        r"""``^{\prime}``, ``^{''}`` or ``^*``."""
        start = self.place
        self.place += 1
        body = self.raw_argument() if self.place < len(self.tokens) else ""
        marks = body.replace("\\prime", "'")
        if marks and set(marks) <= {"'", "*"}:
            return marks
        self.place = start
        return ""

    def applies(self, name: str) -> bool:
        """Whether the parenthesis after a letter holds arguments: ``f(...)``, ``u(t)``, ``y(0)``, ``P(a, b)``."""
        if name[0] in _ALWAYS_FUNCTIONS:
            return True
        inside = self.tokens[self.place + 1 : self.matching()]
        if len(inside) == 1:
            return inside[0].kind in ("num", "sym")
        return any(token.text == "," for token in inside)

    def call_arguments(self) -> tuple[Node, ...]:
        opener = self.take().text
        args = [self.sum()]
        while self.peek() == ",":
            self.place += 1
            args.append(self.sum())
        self.expect(_OPENERS[opener])
        return tuple(args)

    def function(self, name: str) -> Node:
        base: tuple[Node, ...] = ()
        power: Node | None = None
        while self.peek() in ("_", "^"):
            if self.take().text == "_":
                base = (self.argument(digits=True),)
            else:
                power = self.exponent()
        if power is not None and power.op == "neg" and power.args[0].value == 1 and f"arc{name}" in FUNCTIONS:
            name, power = f"arc{name}", None
        grouped = self.peek() in ("(", "{", "[", "\\{")
        args = self.call_arguments() if grouped else (self.bare_argument(),)
        if name == "exp":
            node = Node("pow", (Node("const", name="e"), *args))
        else:
            node = Node("call", args + base, "log_base" if base and name == "log" else name)
        return node if power is None else Node("pow", (node, power))

    def bare_argument(self) -> Node:
        r"""Argument without parentheses: the product up to the next operator or function, as in ``\sin 2x \cos x``."""
        sign = self.sign()
        factors = [self.power()]
        while self.starts_factor() and self.peek().removeprefix("\\") not in FUNCTIONS:
            factors.append(self.power())
        node = product_of(factors)
        return Node("neg", (node,)) if sign == "-" else node
