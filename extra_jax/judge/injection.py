"""Traces that speak to their judge: what could end its turn is defused, and what asks for a score is counted."""

import re

# How the control tokens of chat templates begin; a server's tokenizer reads them in any text.
_CONTROL = re.compile(r"<(?=\||｜|/?s>|(?:start|end)_of_turn>)|\[(?=/?(?:INST|SYSTEM_PROMPT)\])")
_ASKS = re.compile(
    r"\b(?:note|message|instructions?|attention)\s+(?:to|for)\s+(?:the\s+)?(?:grader|judge|evaluator|reviewer)\b"
    r"|\bignore\s+(?:\w+\s+){0,3}instructions\b"
    r"|\b(?:give|award|assign|deserves?|rate)\b[^.\n]{0,60}\b(?:(?:highest|maximum|full|top|best)\s+(?:score|marks?|rating)"
    r"|score\s+of\s+[45]|[45]\s*/\s*5)"
    r"|^\W{0,20}(?:final\s+)?score\s*[:=]\s*\W{0,4}[1-5]\b",
    re.IGNORECASE | re.MULTILINE,
)


def defused(trace: str) -> str:
    """``trace`` with a blank inside every control token, so that none ends the question that it stands in."""
    return _CONTROL.sub(lambda match: match[0] + " ", trace)


def asks_for_score(trace: str) -> bool:
    """Whether a trace looks as if it told its judge what to do: a rough count of an attack, no defence."""
    return _CONTROL.search(trace) is not None or _ASKS.search(trace) is not None
