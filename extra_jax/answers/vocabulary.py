"""Names and words that mean something in an answer, and the two ways in which reading one can fail."""

import re
from itertools import pairwise

MAX_DEPTH = 60
"""Deepest nesting that is read."""


class Unreadable(Exception):
    """Text that is not an expression of the kind asked for; the message says why."""


class TooLarge(Exception):
    """An answer beyond the limits of this grader (length, nesting); it was not compared."""


def names(text: str) -> list[str]:
    """The words of ``text``: a long list of names that stays readable."""
    return text.split()


FUNCTIONS = frozenset(
    names(
        "sin cos tan cot sec csc arcsin arccos arctan arccot arcsec arccsc sinh cosh tanh coth sech csch "
        "arcsinh arccosh arctanh arsinh arcosh artanh log ln exp gcd lcm max min floor ceil sgn det Re Im arg "
        "deg"
    )
) - {"deg"}
BIG_OPERATORS = frozenset(names("sum prod int iint iiint oint lim limsup liminf bigcup bigcap coprod sup inf"))
ABBREVIATIONS = frozenset(
    names(
        "cm mm km kg mg ml mL ft lb lbs oz hr hrs mph kph kmph yd yds mi rad in sq cu nm ms gm cc gal min Hz "
        "eV mol pct sec wk kW kWh is of no"
    )
)
_SHORT_WORDS = frozenset(
    names(
        "yes no odd all any day days way ways men inch feet foot mile miles cent cents hour hours unit units "
        "years year none dollar dollars degree degrees week weeks percent even east west north south true "
        "false people students points meter meters metre metres second seconds minute minutes square cubic "
        "usd dne undefined integers numbers euros pounds gallons the are that with for from approx about"
    )
)


def is_word(word: str) -> bool:
    """Whether a bare run of letters is a word and not a product of variables."""
    lower = word.lower()
    if lower in _SHORT_WORDS and (word.islower() or word.istitle() or word.isupper()):
        return True
    if len(word) < 4 or not re.search("[aeiouy]", lower):
        return False
    return any(left >= right for left, right in pairwise(lower))
