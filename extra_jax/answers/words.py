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
_CHOICE = re.compile(
    r"(?:(?:option|choice|answer|part|statement)\s*:?\s*)?(?:\(\s*([a-z])\s*\)|\[\s*([a-z])\s*\]|([a-z])(?=\s*[).:]|$))",
    re.IGNORECASE,
)

_HEDGE = re.compile(
    r"\b(?:not|n't|cannot|but|neither|nor|or|maybe|perhaps|possibly|probably|might|could|unless|except|wrong|"
    r"incorrect|false|instead|rather|alternatively|else|unsure|guess(?:es)?)\b|\?",
    re.IGNORECASE,
)
_OTHER_CHOICE = re.compile(r"\(\s*([A-J])\s*\)|\b([A-J])\s*[).:]|\b(?:and|or)\s+([A-J])\b|[,/&]\s*([A-J])\b")
_YES = {"yes": {"no", "false"}, "true": {"no", "false"}, "no": {"yes", "true"}, "false": {"yes", "true"}}
_UNSURE = frozenset(("or", "/", "?", "but", "maybe", "perhaps", "possibly", "unless", "except"))
_SENTENCE_END = re.compile(r"[a-z0-9)}$]\s*[.!?]\s+(?:\\text\s*\{\s*)?[A-Z][a-z]*\b")
_WORD = re.compile(r"(?<![\\A-Za-z])(?!(?:text|and)\b)[A-Za-z]{3,}")
_LABEL = re.compile(r"^[^.?!=]*?(?:\b(?:is|are|equals|if and only if|iff)\b|:)")
_MOST_WORDS = 5


def hedges(words: str) -> bool:
    """Whether words beside a value take it back or leave another open: "or maybe", "but not", "otherwise"."""
    return _HEDGE.search(words.replace("if and only if", "")) is not None


def is_prose(text: str) -> bool:
    """Whether a cleaned gold is a text with formulas in it, of which nobody can say what part is the answer."""
    rest = _LABEL.sub("", text, count=1)
    count = len(_WORD.findall(rest))
    formulas = re.search(r"[\d=<>^]", rest) is not None
    many = count > _MOST_WORDS or (count > 1 and (rest.count("=") > 2 or _SENTENCE_END.search(text) is not None))
    return (formulas and many) or count > 25


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
    """The letter of the only choice in ``text``: ``(C)``, ``C``, ``C. 12``, ``Option (C) 12``; in upper case."""
    shown = display(text)
    match = _CHOICE.match(shown)
    if match is None:
        return None
    letter = next(group for group in match.groups() if group).upper()
    rest = shown[match.end() :]
    others = {next(filter(None, other.groups())) for other in _OTHER_CHOICE.finditer(rest)}
    return letter if others <= {letter} and not hedges(rest) else None


def same_words(gold: str, answer: str) -> bool:
    """Whether two wordings say the same."""
    expected, got = plain(gold), plain(answer)
    if expected == got or (expected and expected == plain(_VERB.sub("", display(answer), count=1))):
        return True
    if expected in _YES:
        first, *rest = re.findall(r"[a-z']+|[/?]", display(answer).lower()) or [""]
        denied = "no" in _YES[expected] and hedges(" ".join(rest))
        return first == expected and not denied and not _UNSURE & set(rest) and not _YES[expected] & set(rest)
    if choice(gold) is not None and len(expected) == 1:
        return choice(gold) == choice(answer)
    if (names := _names(gold)) and len(names) > 1 and names == _names(answer):
        return True
    known = meaning(gold)
    return known is not None and known == meaning(answer)


def _names(text: str) -> set[str]:
    """Parts of a list in words, in any order."""
    return {plain(part) for part in re.split(r",|;|&|\band\b", display(text)) if plain(part)}
