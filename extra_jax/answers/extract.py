"""Where the answer is: text after the thinking, then the last complete box."""

import re
from dataclasses import dataclass

_BRACES = re.compile(r"\\(?:boxed|fbox|framebox)\s*\{|\\.|[{}]", re.DOTALL)
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_ANY_BRACE = re.compile(r"[{}]")
_CLOSE_THINK = "</think>"
_OPEN_THINK = "<think>"

# What may stand between two boxes that together are one answer: "$x=\boxed{1}$ or $x=\boxed{2}$".
_MATH = r"(?:\s|\$|\\[()\[\]]|\*)*"
_NAMED = r"(?:(?P<label>[A-Za-z](?:_\{?\w\}?)?)\s*=\s*)?"
_JOINT = re.compile(
    rf"{_MATH}(?:,?\s*\\(?:text|mbox)\s*\{{\s*,?\s*(?:and|or)\s*\}}|,?\s*\b(?:and|or)\b|[,;])"
    rf"(?:\\q?quad|\\[,; ])*{_MATH}{_NAMED}"
)


@dataclass(frozen=True)
class Boxes:
    """The boxes that make up the final answer.

    Attributes:
        text: Content of the last complete box, or several contents joined with ``", "`` when the text
            joins the boxes with a comma, "and" or "or".
        count: Number of boxes joined.
    """

    text: str
    count: int


def after_thinking(completion: str, *, strict: bool, prompt_opens_thinking: bool = False) -> str | None:
    """Text after the last ``</think>``; ``None`` when thinking is still open and ``strict`` is set.

    Args:
        completion: What the model wrote.
        strict: Unclosed thinking means that there is no answer.
        prompt_opens_thinking: The prompt already ended in ``<think>`` (Qwen3-Thinking-2507 templates).
    """
    _, closed, rest = completion.rpartition(_CLOSE_THINK)
    still_open = _OPEN_THINK in rest or (prompt_opens_thinking and not closed)
    return None if strict and still_open else rest


def complete_boxes(text: str) -> list[tuple[int, int, str]]:
    """All complete outermost boxes as ``(start, end, content)`` in order; one linear pass over the braces.

    A box whose brace never closes is skipped; complete boxes inside it count.
    """
    opened: list[tuple[int, int, bool]] = []
    found: list[tuple[int, int, str]] = []
    for token in _BRACES.finditer(text):
        word = token.group()
        if word.endswith("{") and word != "\\{":
            opened.append((token.start(), token.end(), len(word) > 1))
        elif word == "}" and opened:
            start, content, is_box = opened.pop()
            if is_box:
                while found and found[-1][0] > start:
                    found.pop()
                found.append((start, token.end(), text[content : token.start()]))
    return found


def closing_brace(text: str, start: int, *, escapes: bool = True) -> int | None:
    r"""Place of the brace that closes the group whose content begins at ``start``; ``None`` where nothing does.

    Args:
        text: Text with the group in it.
        start: Place behind the opening brace.
        escapes: ``\{`` and ``\}`` are signs and neither open nor close.
    """
    depth = 1
    for brace in (_BRACE if escapes else _ANY_BRACE).finditer(text, start):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return brace.start()
    return None


def last_answer(text: str) -> Boxes | None:
    """The final answer in ``text``: the last complete, non-empty box and those joined to it."""
    boxes = [box for box in complete_boxes(text) if box[2].strip()]
    if not boxes:
        return None
    joined = [boxes[-1]]
    for box in reversed(boxes[:-1]):
        between = text[box[1] : joined[0][0]]
        match = _JOINT.fullmatch(between) if len(between) <= 40 else None
        if match is None or (match["label"] and not _is_named(text, box[0], match["label"])):
            break
        joined.insert(0, box)
    return Boxes(", ".join(content.strip() for _, _, content in joined), len(joined))


def _is_named(text: str, start: int, label: str) -> bool:
    """Whether the box at ``start`` is introduced by the same ``label =``: two values of one unknown."""
    return text[:start].rstrip().removesuffix("=").rstrip().endswith(label)
