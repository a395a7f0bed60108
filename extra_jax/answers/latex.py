"""Cleaning LaTeX and plain text of an answer down to a small vocabulary.

After ``clean`` there are no layout commands, no math delimiters and no unicode operators; synonyms are one word
(``\\dfrac`` and ``\\frac``, ``≤`` and ``\\leqslant``), text is always ``\\text{...}`` and degrees are ``\\deg``.
"""

import re
import unicodedata
from collections.abc import Callable

from extra_jax.answers.extract import closing_brace
from extra_jax.answers.vocabulary import FUNCTIONS, MAX_DEPTH, TooLarge, names

MAX_LENGTH = 6000
"""Longest answer that is read; no answer in any data set comes near."""


_SUPERSCRIPT = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ", "0123456789+-ni")
_SUBSCRIPT = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋ₙₖᵢ", "0123456789+-nki")
_SUPERSCRIPTS = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ]+")
_SUBSCRIPTS = re.compile("[₀₁₂₃₄₅₆₇₈₉₊₋ₙₖᵢ]+")
_UNICODE = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "﹣": "-", "⁄": "/", "∕": "/", "×": r"\times ", "✕": r"\times ",
    "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "•": r"\cdot ", "∗": "*", "÷": r"\div ", "±": r"\pm ",
    "∓": r"\mp ", "√": r"\sqrt ", "∛": r"\sqrt[3] ", "∜": r"\sqrt[4] ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ",
    "⩽": r"\le ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "≅": "=", "≡": r"\equiv ", "∈": r"\in ",
    "∉": r"\notin ", "∪": r"\cup ", "∩": r"\cap ", "∖": r"\setminus ", "∅": r"\emptyset ", "Ø": r"\emptyset ",
    "°": r"\deg ", "º": r"\deg ", "′": "'", "’": "'", "″": "''", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}",
    "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}", "⟨": r"\langle ", "⟩": r"\rangle ", "〈": r"\langle ",
    "〉": r"\rangle ", "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "∑": r"\sum ",
    "∏": r"\prod ", "∫": r"\int ", "…": r"\dots ", "⋯": r"\dots ", "∠": r"\angle ", "△": r"\triangle ",
    "→": r"\to ", "⇒": r"\Rightarrow ", "∣": "|", "∥": r"\|", "ℓ": r"\ell ", "ħ": r"\hbar ", "€": r"\eur ",
    "£": r"\gbp ", "¥": r"\jpy ", "¢": r"\text{ cents}", "“": '"', "”": '"', "，": ",", "。": ".", "；": ";", "：": ":",
    "∧": r"\land ", "∨": r"\lor ", "∘": r"\circ ", "\u200b": "", "\ufeff": "", "\u2061": "", "\u2062": " ",
}  # fmt: skip
_GREEK = names(
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigmaf sigma "
    "tau upsilon phi chi psi omega"
)
_UNICODE |= {chr(0x3B1 + place): f"\\{name} " for place, name in enumerate(_GREEK)}
_UNICODE |= {chr(0x391 + place): f"\\{name.capitalize()} " for place, name in enumerate(_GREEK) if name != "sigmaf"}
_UNICODE |= {"ϕ": r"\phi ", "ϵ": r"\epsilon ", "ϑ": r"\theta ", "µ": r"\mu ", "∂": r"\partial "}
_UNICODE_TABLE = str.maketrans(_UNICODE)

_SYNONYMS = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "dbinom": "binom", "tbinom": "binom", "leq": "le", "geq": "ge",
    "leqslant": "le", "geqslant": "ge", "leqq": "le", "geqq": "ge", "neq": "ne", "lbrace": "{", "rbrace": "}",
    "lbrack": "[", "rbrack": "]", "lvert": "|", "rvert": "|", "vert": "|", "mid": "|", "lt": "<", "gt": ">",
    "varnothing": "emptyset", "ldots": "dots", "cdots": "dots", "dotsc": "dots", "dotsb": "dots", "colon": ":",
    "varphi": "phi", "varepsilon": "epsilon", "vartheta": "theta", "varrho": "rho", "backslash": "setminus",
    "smallsetminus": "setminus", "approxeq": "approx", "simeq": "approx", "degree": "deg", "degrees": "deg",
    "tg": "tan", "ctg": "cot", "lg": "log", "Reals": "mathbb{R}", "ast": "*", "lparen": "(", "rparen": ")",
    "imath": "i", "jmath": "j", "pounds": "gbp", "euro": "eur", "land": ",", "wedge": ",", "lor": "or",
    "vee": "or", "cos^{-1}": "arccos", "textdollar": "usd", "asin": "arcsin", "acos": "arccos", "atan": "arctan",
    "cosec": "csc", "infin": "infty", "cong": "=", "implies": "Rightarrow", "longrightarrow": "to", "rightarrow": "to",
}  # fmt: skip
_DROPPED = frozenset(
    names(
        "displaystyle textstyle scriptstyle limits nolimits mathstrut bf rm it sf tt quad qquad enspace "
        "thinspace negthinspace medspace thickspace left right middle big Big bigg Bigg bigl bigr Bigl Bigr "
        "biggl biggr Biggl Biggr boldmath unboldmath strut cr noindent par large Large small normalsize mleft "
        "mright hfill allowbreak nobreak centering upright"
    )
)
_FONT = re.compile(
    r"\\(?:math(?:rm|bf|it|sf|tt|cal|scr|frak|normal)|bm|boldsymbol|pmb|symbf|symrm|mathord|mathop|mathbin)(?![A-Za-z])\s*"
)
_TEXT = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal|sc|up|md|sl)?|mbox|hbox|textnormal|emph|operatorname\*?|unit)(?![A-Za-z])\s*(?=\{)"
)
_ARGUMENT_DROPPED = re.compile(
    r"\\(?:hspace|vspace|phantom|hphantom|vphantom|tag|label|color|textcolor|kern|hskip)\*?\s*\{[^{}]*\}"
)
_UNBOXED = re.compile(r"\\(?:boxed|fbox|framebox|underline|ensuremath|mathchoice|displaylines|cancel|strong)\s*(?=\{)")
_COMMAND = re.compile(r"\\([A-Za-z]+)\s*")
_DEGREE = re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z])|\{\s*\\deg\s*\}|\\deg(?![A-Za-z])|\{\s*o\s*\})")
_ORDINAL = re.compile(r"(?<=\d)\s*\^\s*\{?\s*\\text\s*\{\s*(?:th|st|nd|rd)\s*\}\s*\}?")
_MODULUS = re.compile(r"\(?\s*\\(?:pmod|bmod|mod)(?![A-Za-z])\s*\{?\s*([^{}()\\,.$]*)\}?\s*\)?")
_INFIX = re.compile(r"\{([^{}]*)\\(over|choose)(?![A-Za-z])([^{}]*)\}")
_UNIT_FRACTION = re.compile(
    r"\\[dt]?frac\s*\{\s*\\text\s*\{([^{}]*)\}\s*(\^\{?\d\}?)?\s*\}\s*\{\s*\\text\s*\{([^{}]*)\}\s*(\^\{?\d\}?)?\s*\}"
)
_ENDLESS = re.compile(r"(\.\d+)\s*(?:\.\.\.|\\[cl]?dots)")
_THOUSANDS_SPACE = re.compile(r"(?<=\d)(?:\\[,;:! ]|~|\{\s*\\[,;:!]\s*\}|\\thinspace\s)+(?=\d{3}(?!\d))")
_PLAIN_SPACES = re.compile(r"(?<![\d.,])\d{1,3}(?: \d{3})+(?![\d/])")
_BRACED_COMMA = re.compile(r"(?<=\d)\s*\{\s*,\s*\}\s*(?=\d)")
_TIGHT_COMMA = re.compile(r"(?<=\d)\s*,\s*\\!\s*(?=\d)|(?<=\d)\\!\s*,\s*(?=\d)")
_SPACES = re.compile(r"\\[,;:!> \n]|\\ |~|&nbsp;|\s+")
_TRAILING = re.compile(r"(?:[\s.,;:]|\\\\)*\Z")
_WRAPPERS = ("**", "__", "``", "`")
_QUOTED = re.compile(r"\s*(['\"])(?!['\"])([^'\"]*)\1\s*")
_GLUED = re.compile(r"(?<=[\d)}])(and|or)(?=[A-Za-z\\(\d-])")
_DISPLAYED = re.compile(r"\$\$?(.*?)\$\$?|\\\((.*?)\\\)|\\\[(.*?)\\\]", re.DOTALL)
_PHRASE = re.compile(r"(?=.*[A-Za-z]{2})[A-Za-z ,.:;'-]+")


def clean(text: str) -> str:
    """``text`` in the small vocabulary; the meaning is unchanged. Raises ``TooLarge`` past ``MAX_LENGTH``."""
    if len(text) > MAX_LENGTH:
        raise TooLarge(f"answer of {len(text)} characters, more than the {MAX_LENGTH} that are read")
    if _depth(text) > MAX_DEPTH:
        raise TooLarge(f"nested deeper than {MAX_DEPTH}")
    text = _QUOTED.sub(r"\2", _rows(_from_unicode(text))) if "'" in text or '"' in text else _rows(_from_unicode(text))
    for wrapper in _WRAPPERS:
        text = text.strip().removeprefix(wrapper).removesuffix(wrapper)
    text = _phrases(text.replace("\\$", "\\usd ")).replace("$", " ")
    text = re.sub(r"\\[()\[\]]", " ", text)
    text = _ARGUMENT_DROPPED.sub(" ", text)
    text = _UNBOXED.sub("", text)
    text = _braced_fonts(text)
    text = re.sub(r"\\(?:left|right|middle)\s*\.", " ", text)
    text = _BRACED_COMMA.sub(lambda match: "" if _groups_of_three(match) else ".", text)
    text = _TIGHT_COMMA.sub("", text)
    text = _THOUSANDS_SPACE.sub("", text)
    text = re.sub(r"(\\mathbb\{R\})\s*-\s*(?=[\[({\\])", r"\1\\setminus ", text)
    text = _DEGREE.sub(r"\\deg ", text)
    text = _ORDINAL.sub("", text)
    text = _MODULUS.sub(r"(\\text{modulo} \1)", text)
    text = _INFIX.sub(_prefix_form, text)
    text = _UNIT_FRACTION.sub(r"\\text{\1}\2/\\text{\3}\4", text)
    text = _ENDLESS.sub(r"\1\\dots ", text)
    text = _COMMAND.sub(_one_command, text)
    text = text.replace("\\%", "%").replace("\\#", " ").replace("\\&", "&").replace("\\_", "_")
    text = text.replace("<=", r"\le ").replace(">=", r"\ge ").replace("!=", r"\ne ").replace("**", "^")
    text = _GLUED.sub(r" \1 ", text)
    text = text.replace(":=", "=").replace("==", "=").replace("\\/", "").replace('"', " ")
    text = re.sub(r"\\\{\s*,\s*\\\}", ",", text)
    text = _outside_text(text, lambda part: _SPACES.sub(" ", part))
    text = _PLAIN_SPACES.sub(lambda match: match.group().replace(" ", ""), text)
    text = _TRAILING.sub("", text).strip()
    while text.startswith("{") and closing_brace(text, 1) == len(text) - 1:
        text = _TRAILING.sub("", text[1:-1]).strip()
    return text


def _phrases(text: str) -> str:
    r"""Words outside of ``$...$`` as ``\text``: "Thus $x < 2$ is our answer"."""
    parts, place = [], 0
    for formula in _DISPLAYED.finditer(text):
        parts += [_phrase(text[place : formula.start()]), formula.group()]
        place = formula.end()
    return "".join([*parts, _phrase(text[place:])]) if place else text


def _phrase(text: str) -> str:
    return rf"\text{{{text}}}" if _PHRASE.fullmatch(text) else text


def _depth(text: str) -> int:
    """How deep brackets of any kind are nested; exact only where there are many."""
    if sum(map(text.count, "([{")) <= MAX_DEPTH:
        return 0
    depth = deepest = 0
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        deepest = max(deepest, depth)
    return deepest


def _rows(text: str) -> str:
    r"""``\\\\`` ends a row of a matrix; elsewhere it is a command escaped twice, or layout."""
    if "\\begin" in text:
        return re.sub(r"\\\\\s*(?:\[-?[\d.]+\s*(?:pt|em|ex|mm|cm)\])?", r"\\newrow ", text)
    return re.sub(r"\\\\(?![A-Za-z{}\[\]()%])", " ", text).replace("\\\\", "\\")


def _from_unicode(text: str) -> str:
    if text.isascii():
        return text
    text = _SUPERSCRIPTS.sub(lambda match: "^{" + match.group().translate(_SUPERSCRIPT) + "}", text)
    text = _SUBSCRIPTS.sub(lambda match: "_{" + match.group().translate(_SUBSCRIPT) + "}", text)
    text = re.sub("([∛∜√])\\s*(\\d+(?:\\.\\d+)?)", r"\1{\2}", text)
    text = text.translate(_UNICODE_TABLE)
    parts = []
    for char in text:
        wide = unicodedata.normalize("NFKC", char)
        if len(wide) == 3 and wide[1] == "⁄":  # a vulgar fraction such as ½
            wide = rf"\frac{{{wide[0]}}}{{{wide[2]}}}"
        parts.append(wide)
    return "".join(parts)


def _prefix_form(match: re.Match[str]) -> str:
    return rf"\{'frac' if match[2] == 'over' else 'binom'}{{{match[1]}}}{{{match[3]}}}"


def _groups_of_three(match: re.Match[str]) -> bool:
    rest = match.string[match.end() :]
    digits = re.match(r"\d+", rest)
    return digits is not None and len(digits.group()) == 3


def _braced_fonts(text: str) -> str:
    r"""``\mathrm{cm}`` is text, ``\mathbf{v}`` is the letter; old-style ``{\rm cm}`` too."""
    text = _TEXT.sub(lambda match: "\\text" if "operatorname" not in match.group() else "\\name", text)
    text = re.sub(r"\\name\{\s*([A-Za-z]+)\s*\}", _operator, text)
    text = re.sub(r"\{\s*\\(?:rm|bf|it|sf)\s+([^{}]*)\}", r"\\text{\1}", text)
    text = re.sub(r"\\mathbb\s*\{?\s*([A-Z])\s*\}?", r"\\mathbb{\1}", text)

    def font(match: re.Match[str]) -> str:
        body = re.match(r"\{\s*~?\s*([^{}\\]*?)\s*\}", text[match.end() :])
        upright = "mathrm" in match.group() and body and body[1] not in ("e", "i", "d")
        return "\\text" if body and (upright or len(re.findall("[A-Za-z]", body[1])) > 1) else ""

    return _FONT.sub(font, text)


def _operator(match: re.Match[str]) -> str:
    name = match[1]
    return f"\\{name} " if name in FUNCTIONS or name in _SYNONYMS else f"\\text{{{name}}}"


def _one_command(match: re.Match[str]) -> str:
    name = match[1]
    if name in _DROPPED:
        return " "
    other = _SYNONYMS.get(name)
    if other is None:
        return f"\\{name}" if match.end() == len(match.string) or name == "text" else f"\\{name} "
    if other in ("{", "}"):
        return f"\\{other}"
    if other == "or":
        return r"\text{or}"
    return other if not other[0].isalpha() or other in ("i", "j") else f"\\{other} "


def _outside_text(text: str, change: Callable[[str], str]) -> str:
    pieces = re.split(r"(\\text\{[^{}]*\})", text)
    return "".join(piece if place % 2 else change(piece) for place, piece in enumerate(pieces))
