"""Cutting lists of tokens: labels and remarks off, groups found, separators split at."""

import re
from collections.abc import Callable

from extra_jax.answers.tokens import Token

OPEN = {"(": ")", "[": "]", "{": "}", "\\{": "\\}", "\\langle": "\\rangle"}
CLOSE = frozenset(OPEN.values())
_VERB = re.compile(r"(?::|\bis|\bare|\bequals|\bequal to)\s*$", re.IGNORECASE)
_CONDITION = re.compile(
    r"[\s,]*(?:for|where|when|if|with|such that|provided|given|assuming|since|because)\b", re.IGNORECASE
)
_LABEL = re.compile(
    r"\s*(?:approximately|approx\.?|about|roughly|exactly|around|only|(?:the )?(?:final )?answer)\s*", re.IGNORECASE
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
    """Drop leading words such as "Answer:", "approximately", "The value of x is"."""
    if len(tokens) < 2 or tokens[0].kind != "text":
        return tokens
    for place in range(len(tokens) - 2, -1, -1):
        token, after = tokens[place], tokens[place + 1]
        if token.kind != "text" or after.kind == "text":
            continue
        leading = all(earlier.kind == "text" for earlier in tokens[:place])
        if _VERB.search(token.text) or (
            leading and (after.text in ("=", ":", "\\approx") or _LABEL.fullmatch(token.text))
        ):
            return trim(tokens[place + 1 :])
    return tokens


def without_remark(tokens: list[Token]) -> list[Token]:
    """Drop what follows "for", "where", "since" and a closing remark in parentheses."""
    depth = 0
    for place, token in enumerate(tokens):
        if token.kind == "text":
            if place and depth == 0 and _CONDITION.match(token.text):
                return trim(tokens[:place])
        else:
            depth += (token.text in OPEN) - (token.text in CLOSE)
    if len(tokens) < 4 or tokens[-1].text != ")":
        return tokens
    start = _opening(tokens)
    first = tokens[start + 1]
    remark = first.kind == "text" and len(first.text.strip()) > 1 and "base" not in first.text
    return tokens[:start] if start > 0 and remark else tokens


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
        if tokens[place].text in OPEN or tokens[place].text == "\\begin":
            depth += 1
        elif tokens[place].text in CLOSE or tokens[place].text == "\\end":
            depth -= 1
            if depth == 0:
                return place
    return -1


def split(tokens: list[Token], is_mark: Callable[[Token], bool]) -> tuple[list[list[Token]], str]:
    """Cut at the marks outside all groups; the second value is the last mark that is a word, else ``","``."""
    pieces: list[list[Token]] = [[]]
    joined = ","
    depth = 0
    for token in tokens:
        if token.kind != "text" and (token.text in OPEN or token.text == "\\begin"):
            depth += 1
        elif token.kind != "text" and (token.text in CLOSE or token.text == "\\end"):
            depth -= 1
        if depth == 0 and is_mark(token):
            joined = token.text if token.kind == "sep" else joined
            pieces.append([])
        else:
            pieces[-1].append(token)
    return [piece for piece in pieces if piece], joined


def is_separator(token: Token) -> bool:
    return token.kind == "sep" or (token.kind == "op" and token.text in (",", ";"))
