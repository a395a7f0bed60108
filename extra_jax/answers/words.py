"""Answers in words: names, choices, yes and no, "no solution", "all real numbers"."""

import re

EMPTY, REALS, INFINITE, UNDEFINED = "empty", "reals", "infinite", "undefined"

_MEANINGS = {
    EMPTY: "emptyset nosolution nosolutions norealsolution norealsolutions none nosolutionexists nosolutionsexist "
    "therearenosolutions therearenone nosuchsolution nosuchnumber nosuchnumbers empty nosuchsolutions noneexist",
    REALS: "allrealnumbers allreals mathbbr realnumbers allrealx anyrealnumber setofallrealnumbers setofrealnumbers "
    "allrealvalues everyrealnumber allrealnumbersx",
    INFINITE: "infinity infinite infty infinitelymany infinitelymanysolutions",
    UNDEFINED: "undefined dne doesnotexist notdefined doesntexist nolimit",
}
_MEANING = {word: name for name, words in _MEANINGS.items() for word in words.split()}
_ARTICLES = re.compile(r"^(?:(?:an?|the|it is|this is|only)\s+)+(?=\S\S)")
_VERB = re.compile(r"^.*\b(?:is|are|was|will be)\s+", re.IGNORECASE)
_LETTER = re.compile(
    r"(?:(?:option|choice|answer|part|statement)\s*:?\s*)?(?:\(\s*([a-z])\s*\)|\[\s*([a-z])\s*\]|([a-z])(?=\s*[).:]|$))",
    re.IGNORECASE,
)


def display(text: str) -> str:
    r"""A cleaned text as a reader sees it: without ``\text``, braces and surplus spaces."""
    text = re.sub(r"\\text\s*", "", text)
    text = re.sub(r"[{}\\]", " ", text)
    return re.sub(r"\s+", " ", text).strip()


def plain(text: str) -> str:
    """``text`` reduced to what tells two wordings apart: letters, digits and signs in lower case."""
    shown = re.sub(r"[.,;:!?\"'`*()\[\]]", " ", display(text).lower())
    shown = _ARTICLES.sub("", re.sub(r"\s+", " ", shown).strip())
    return shown.replace(" ", "")


def meaning(text: str) -> str | None:
    """One of the named meanings, for the many ways to say "no solution" or "all real numbers"."""
    return _MEANING.get(plain(text))


def choice(text: str) -> str | None:
    """The letter of a choice at the start of ``text``: ``(C)``, ``C``, ``C. 12``, ``Option (C) 12``; in upper case."""
    match = _LETTER.match(display(text))
    return next(group for group in match.groups() if group).upper() if match else None


def same_words(gold: str, answer: str) -> bool:
    """Whether two wordings say the same."""
    expected, got = plain(gold), plain(answer)
    if expected == got or (expected and expected == plain(_VERB.sub("", display(answer), count=1))):
        return True
    if expected in ("yes", "no", "true", "false"):
        return re.match(rf"{expected}\b(?!\s*(?:and|or|/))", display(answer).lower()) is not None
    if choice(gold) is not None and len(expected) == 1:
        return choice(gold) == choice(answer)
    if (names := _names(gold)) and len(names) > 1 and names == _names(answer):
        return True
    known = meaning(gold)
    return known is not None and known == meaning(answer)


def _names(text: str) -> set[str]:
    """Parts of a list in words, in any order."""
    return {plain(part) for part in re.split(r",|;|&|\band\b", display(text)) if plain(part)}
