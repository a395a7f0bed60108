"""Where the answer is: text after the thinking, then the last complete box."""

import re
from dataclasses import dataclass

_BRACES = re.compile(r"\\(?:boxed|fbox|framebox)\s*\{|\\.|[{}]", re.DOTALL)
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_ANY_BRACE = re.compile(r"[{}]")
_CLOSE_THINK = "</think>"
_OPEN_THINK = "<think>"

# What may stand between two boxes that together are one answer, such as "$x=\boxed{1}$ or $x=\boxed{2}$".
_LAYOUT = re.compile(r"\$|\\[()\[\],;:!> \n\\]|\*|~|\\(?:displaystyle|enspace|thinspace|hspace\*?\s*\{[^{}]*\})")
_QUAD = re.compile(r"\\q?quad(?![A-Za-z])")
_UPRIGHT = re.compile(r"\\(?:text|math|m|h)[a-z]*\s*\{([^{}]*)\}")
_JOINT = re.compile(
    r"\s*(?:for (?:the )?(?:part )?\(?\w+\)?)?\s*(?:[,;]?\s*(?:and|or|as well as|along with|together with)\b|[,;&])?\s*"
    r"(?:(?P<label>[A-Za-z](?:_\{?\w\}?)?)\s*=\s*)?"
)
_LONGEST_JOINT = 80
_MOST_JOINED = 3000
"""So many boxes are longer than any answer that is read (``latex.MAX_LENGTH``): the rest need not be joined."""

_GSM8K = re.compile(r"^####[ \t]*(\S.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Boxes:
    """The boxes that make up the final answer.

    Attributes:
        text: Content of the last complete box, or several contents joined with ``", "`` when the text
            joins the boxes with a comma, "and", "or" or a wide space.
        count: Number of boxes joined, at most 3,000.
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
    found: list[tuple[int, int, int, int]] = []  # a box, and its content
    for token in _BRACES.finditer(text):
        word = token.group()
        if word.endswith("{") and word != "\\{":
            opened.append((token.start(), token.end(), len(word) > 1))
        elif word == "}" and opened:
            start, content, is_box = opened.pop()
            if is_box:
                while found and found[-1][0] > start:
                    found.pop()
                found.append((start, token.end(), content, token.start()))
    return [(start, end, text[first:last]) for start, end, first, last in found]


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
    first = len(boxes) - 1
    while first > 0 and len(boxes) - first < _MOST_JOINED and _joined(text, boxes[first - 1], boxes[first]):
        first -= 1
    return Boxes(", ".join(content.strip() for _, _, content in boxes[first:]), len(boxes) - first)


def _joined(text: str, left: tuple[int, int, str], right: tuple[int, int, str]) -> bool:
    """Whether only layout and a comma, "and" or "or" stand between two boxes; for ``x =`` it has to be the same x."""
    if right[0] - left[1] > _LONGEST_JOINT:
        return False
    between = text[left[1] : right[0]]
    spread = _QUAD.search(between) is not None
    match = _JOINT.fullmatch(_UPRIGHT.sub(r" \1 ", _LAYOUT.sub(" ", _QUAD.sub(" ", between))))
    if match is None or not (spread or match.group().strip()):
        return False
    before = text[max(0, left[0] - _LONGEST_JOINT) : left[0]]
    return not match["label"] or before.rstrip().removesuffix("=").rstrip().endswith(match["label"])


def gold_answer(gold: str) -> str:
    """The answer in a gold that may be a worked solution: its last boxes, or what follows ``####`` as in GSM8K."""
    if boxes := last_answer(gold):
        return boxes.text
    marked = _GSM8K.findall(gold)
    return marked[-1] if marked else gold
