"""Units of measure, money, percent and degrees that stand behind (or before) a number."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from extra_jax.answers.vocabulary import names


@dataclass(frozen=True)
class Unit:
    """A unit as a power product of base units.

    Attributes:
        bases: Exponent of each base unit, sorted; empty for plain "units", which may be any.
        factor: Size in base units.
    """

    bases: tuple[tuple[str, int], ...] = ()
    factor: Fraction = Fraction(1)


GENERIC = Unit()
NOUN = Unit((("noun", 1),))
"""Something counted: "dogs", "ways", "right triangles"."""
PERCENT = Unit((("percent", 1),))
DEGREE = Unit((("degree", 1),))

_BASES: dict[str, tuple[str, Fraction, int]] = {}


def _define(base: str, power: int = 1, **names: str) -> None:
    for factor, spelled in names.items():
        size = Fraction(factor.removeprefix("x").replace("_", "."))
        for name in spelled.split():
            _BASES[name] = (base, size, power)


_define("metre", x1="m meter metre meters metres", x0_01="cm centimeter centimetre centimeters centimetres")
_define("metre", x0_001="mm millimeter millimetre millimeters millimetres", x0_1="dm decimeter decimeters")
_define("metre", x1000="km kilometer kilometre kilometers kilometres", x0_0254="in inch inches")
_define("metre", x0_3048="ft foot feet", x0_9144="yd yds yard yards", x1609_344="mi mile miles")
_define("metre", x0_000000001="nm nanometer nanometers", x0_000001="micron microns")
_define("second", x1="s sec secs second seconds", x60="min mins minute minutes", x3600="h hr hrs hour hours")
_define("second", x86400="day days", x604800="week weeks", x0_001="ms millisecond milliseconds")
_define("year", x1="year years yr yrs")
_define("month", x1="month months")
_define("gram", x1="g gram grams gm", x1000="kg kilogram kilograms", x0_001="mg milligram milligrams")
_define("gram", x453_59237="lb lbs pound pounds", x28_349523125="oz ounce ounces", x1000000="ton tons tonne tonnes")
_define("metre", 3, x0_001="L l liter litre liters litres", x0_000001="ml mL milliliter milliliters cc")
_define("gallon", x1="gallon gallons gal", x0_25="quart quarts", x0_125="pint pints", x0_0625="cup cups")
_define("dollar", x1="dollar dollars usd USD buck bucks", x0_01="cent cents")
_define("euro", x1="euro euros eur")
_define("sterling", x1="gbp")
_define("yen", x1="yen jpy")
_define("rupee", x1="rupee rupees rs Rs")
_define("percent", x1="percent percentage pct")
_define("degree", x1="degree degrees deg")
_define("radian", x1="rad rads radian radians")
_define("acre", x1="acre acres")
_define("hectare", x1="hectare hectares ha")
for _name in names("N J W V A Hz Pa K mol eV T C F Wb"):
    _define(_name, x1=_name)
for _name, _words in {
    "N": "newton newtons", "J": "joule joules", "W": "watt watts", "V": "volt volts", "Hz": "hertz",
    "K": "kelvin kelvins",
    "Pa": "pascal pascals", "A": "ampere amperes amp amps", "mol": "mole moles", "celsius": "celsius",
    "fahrenheit": "fahrenheit",
}.items():  # fmt: skip
    _define(_name, x1=_words)
_COMPOUND = {"mph": "mi/h", "kph": "km/h", "kmph": "km/h", "kmh": "km/h", "fps": "ft/s"}

LETTERS = frozenset(names("m s g h L N J W V K"))
"""Single letters that are dropped behind a bare number, as in ``5 m``."""

_SQUARE = frozenset(["square", "sq", "squared"])
_CUBE = frozenset(["cubic", "cu", "cubed"])
_TOKEN = re.compile(r"[A-Za-z]+|\^\s*\{?\s*(-?\d+)\s*\}?|[/*²³]")


def read_unit(text: str) -> Unit:
    """The unit named by ``text`` such as ``square feet``, ``cm^{2}``, ``km/h``, ``miles per hour``.

    Words that are not units of measure are passed over ("miles away"); alone they are a noun.
    """
    text = re.sub(r"\\(?:text|cdot|deg)\b|[.{}()]", lambda match: " " if match.group() != "{" else "{", text)
    bases: dict[str, int] = {}
    factor = Fraction(1)
    side = pending = 1
    last: tuple[str, Fraction, int] | None = None
    other_words = False
    for match in _TOKEN.finditer(_expand(text)):
        word = match.group()
        if word in ("/", "per"):
            side, last = -1, None
        elif word in _SQUARE | _CUBE and not (last is not None and word.endswith("d")):
            pending = 2 if word in _SQUARE else 3
        elif word in _SQUARE | _CUBE or word[0] == "^" or word in "²³":
            power = int(match[1] or 0) or (2 if word in _SQUARE or word == "²" else 3)
            factor *= _raise(bases, last, side * (power - 1)) if last is not None else 1
        elif known := _BASES.get(word) or _BASES.get(word.lower()):
            factor *= _raise(bases, known, side * pending)
            last, pending = known, 1
        elif word in ("unit", "units"):
            last = ("unit", Fraction(1), 1)
            _raise(bases, last, side * pending)
            pending = 1
        else:
            other_words |= word not in ("*", "a", "an")
    if not bases and other_words:
        return NOUN
    if "celsius" in bases or "fahrenheit" in bases:
        bases.pop("degree", None)
    if bases == {"unit": 1}:
        return GENERIC
    return Unit(tuple(sorted((name, power) for name, power in bases.items() if power)), factor)


def _expand(text: str) -> str:
    return re.sub(r"[A-Za-z]+", lambda match: _COMPOUND.get(match.group().lower(), match.group()), text)


def _raise(bases: dict[str, int], unit: tuple[str, Fraction, int], power: int) -> Fraction:
    name, size, dimension = unit
    bases[name] = bases.get(name, 0) + dimension * power
    return size**power


CURRENCIES: Mapping[str, Unit] = {
    "\\usd": read_unit("dollar"),
    "\\eur": read_unit("euro"),
    "\\gbp": read_unit("gbp"),
    "\\jpy": read_unit("yen"),
}
