"""Cutting lists of tokens: labels and remarks off, groups found, separators split at."""

import re
from collections.abc import Callable

from extra_jax.answers.tokens import Token

OPEN = {"(": ")", "[": "]", "{": "}", "\\{": "\\}", "\\langle": "\\rangle"}
CLOSE = frozenset(OPEN.values())
RELATIONS = frozenset(("=", "<", ">", "\\le", "\\ge", "\\ne", "\\in", "\\equiv"))
_VERB = re.compile(r"(?::|\bis|\bare|\bequals|\bequal to|\bif and only if|\biff)\s*$", re.IGNORECASE)
_CONDITION = re.compile(
    r"[\s,]*(?:but |and )?(for|where|when|whenever|if|with|such that|provided|given|assuming|otherwise|modulo)\b",
    re.IGNORECASE,
)
_REASON = re.compile(
    r"[\s,]*(?:since|because|as (?:required|desired|needed|wanted|claimed)|"
    r"is (?:the|our|my|a|one) (?:[a-z]+ )*(?:solution|answer|result|value))\b",
    re.IGNORECASE,
)
_REMARK = re.compile(r"\s*\([^()]*[A-Za-z] +[A-Za-z][^()]*\)\s*")
_LABEL = re.compile(
    r"\s*(?:therefore|thus|hence|so|then)?,?\s*(?:we (?:find|get|have|obtain|see)(?: that)?|"
    r"approximately|approx\.?|about|roughly|exactly|around|only|(?:the )?(?:final )?answer)?,?\s*",
    re.IGNORECASE,
)


def spell(tokens: list[Token]) -> str:
    """Tokens as text again."""
    out = []
    for token in tokens:
        text = f"\\text{{{token.text}}}" if token.kind == "text" else token.text
        out.append(f"{text} " if token.kind in ("sym", "sep") else text)
    return "".join(out).strip()


def trim(tokens: list[Token]) -> list[Token]:
    start, end = 0, len(tokens)
    while start < end and (
        tokens[start].text in (",", ";", ":", "=", "\\Rightarrow", "\\to", "\\approx") or tokens[start].kind == "sep"
    ):
        start += 1
    while end > start and (tokens[end - 1].text in (",", ";", ".", ":", "=") or tokens[end - 1].kind == "sep"):
        end -= 1
    return tokens[start:end]


def without_label(tokens: list[Token]) -> list[Token]:
    """Drop leading words such as "Answer:", "approximately", "The value of x is"; never a value that stands there."""
    if len(tokens) < 2 or tokens[0].kind != "text":
        return tokens
    for place in range(len(tokens) - 2, -1, -1):
        token, after = tokens[place], tokens[place + 1]
        if token.kind != "text" or after.kind == "text" or any(map(is_separator, tokens[:place])):
            continue
        leading = all(earlier.kind == "text" for earlier in tokens[:place])
        if _VERB.search(token.text) or (
            leading and (after.text in ("=", ":", "\\approx") or _LABEL.fullmatch(token.text))
        ):
            return trim(tokens[place + 1 :])
    return tokens


def without_reason(tokens: list[Token]) -> list[Token]:
    """Drop "since ..." and "is the answer" behind a value, and a closing remark in parentheses."""
    depth = 0
    for place, token in enumerate(tokens):
        if token.kind != "text":
            depth += depth_change(token)
        elif place and depth == 0 and _REASON.match(token.text):
            return without_reason(trim(tokens[:place]))
    if len(tokens) > 1 and _REMARK.fullmatch(tokens[-1].text):
        return trim(tokens[:-1])
    if len(tokens) < 4 or tokens[-1].text != ")":
        return tokens
    start = _opening(tokens)
    first, rest = tokens[start + 1], tokens[start + 2 : -1]
    if start <= 0 or first.kind != "text" or len(first.text.strip()) < 2 or "base" in first.text:
        return tokens
    if _CONDITION.match(first.text):
        return [*tokens[:start], first, *rest]
    harmless = _REASON.match(first.text) or _LABEL.fullmatch(first.text) or all(token.kind == "text" for token in rest)
    return tokens[:start] if harmless else tokens


def condition_start(tokens: list[Token]) -> int | None:
    """Place of the words outside all groups with which a condition begins; 0 when nothing stands before them."""
    depth = 0
    for place, token in enumerate(tokens):
        if token.kind != "text":
            depth += depth_change(token)
        elif depth == 0 and _CONDITION.match(token.text):
            return place
    return None


def opener(tokens: list[Token]) -> str:
    """The word with which a condition begins."""
    match = _CONDITION.match(tokens[0].text) if tokens[0].kind == "text" else None
    return match[1].lower() if match else ""


def with_conditions(pieces: list[list[Token]]) -> list[list[Token]]:
    """Parts of a list, each with the condition that follows it: "2 for odd n, 3 for even n" are two.

    What a condition is about may itself be a list: "k for k > 1, k < 9". A part that does not speak of the same thing
    is the next value.
    """
    joined: list[list[Token]] = []
    for piece in pieces:
        start = condition_start(piece)
        opened = condition_start(joined[-1]) if joined else None
        about = {token.text for token in joined[-1][opened:] if token.kind == "sym"} if opened is not None else set()
        compares = any(token.text in RELATIONS for token in piece)
        if joined and (
            (start == 0 and opener(piece) != "otherwise") or (start is None and compares and piece[0].text in about)
        ):
            joined[-1] = [*joined[-1], Token("op", ","), *piece]
        else:
            joined.append(piece)
    return joined


def depth_change(token: Token) -> int:
    """1 where a group or an environment opens, -1 where one closes."""
    if token.kind == "text":
        return 0
    return (token.text in OPEN or token.text == "\\begin") - (token.text in CLOSE or token.text == "\\end")


def _opening(tokens: list[Token]) -> int:
    """Place of the parenthesis that the last token closes; -1 when there is none."""
    depth = 0
    for place in range(len(tokens) - 1, -1, -1):
        depth += (tokens[place].text == ")") - (tokens[place].text == "(")
        if depth == 0:
            return place
    return -1


def end_of_group(tokens: list[Token], start: int) -> int:
    """Place of the token that closes the group opened at ``start``; any closing sign closes any opening one."""
    depth = 0
    for place in range(start, len(tokens)):
        change = depth_change(tokens[place])
        depth += change
        if change < 0 and depth == 0:
            return place
    return -1


def split(tokens: list[Token], is_mark: Callable[[Token], bool]) -> tuple[list[list[Token]], str]:
    """Cut at the marks outside all groups; the second value is the last mark that is a word, else ``","``."""
    pieces: list[list[Token]] = [[]]
    joined = ","
    depth = 0
    for token in tokens:
        depth += depth_change(token)
        if depth == 0 and is_mark(token):
            joined = token.text if token.kind == "sep" else joined
            pieces.append([])
        else:
            pieces[-1].append(token)
    return [piece for piece in pieces if piece], joined


def is_separator(token: Token) -> bool:
    return token.kind == "sep" or (token.kind == "op" and token.text in (",", ";"))
