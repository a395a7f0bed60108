"""Rows of JSONL files of completions: where they stand, and what they say without the numbers of each token.

Most of a row are arrays with an entry for each token. ``brief`` puts their length in their place before the row is
parsed, which makes an index of a file some twenty times cheaper than reading it.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Row = dict[str, Any]

_ARRAYS = ("prompt_ids", "completion_ids", "logprobs", "entropies", "prefix_ids")
# Within a JSON string every quotation mark has a backslash before it, so this matches keys only.
_ARRAY = re.compile(rb'"(' + "|".join(_ARRAYS).encode() + rb')": ?\[([^\[\]]*)\]')
MOST_BYTES = 64 << 20
"""Longer lines are no row of ours: half a million tokens are 16 MB."""


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The complete lines of a file with their offsets; one that is longer than ``MOST_BYTES`` comes in pieces."""
    with path.open("rb") as file:
        offset = 0
        while line := file.readline(MOST_BYTES):
            yield offset, line
            offset += len(line)


def brief(line: bytes) -> Row | None:
    """A row in which the arrays of tokens are their lengths; ``None``: the line is no JSON object."""
    return parse(_ARRAY.sub(_counted, line))


def parse(line: bytes) -> Row | None:
    """A whole row; ``None``: the line is no JSON object. What JSON has no word for (NaN) is ``None``."""
    try:
        row = json.loads(line, parse_constant=lambda name: None)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def span(path: Path, offset: int, size: int) -> list[bytes]:
    """The lines that stand in ``size`` bytes from ``offset`` on."""
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size).splitlines(keepends=True)


def _counted(match: re.Match[bytes]) -> bytes:
    values = match[2]
    return b'"%b": %d' % (match[1], values.count(b",") + 1 if values.strip() else 0)


def number(value: Any, default: float = 0.0) -> float:
    """A number of a foreign row, or ``default``."""
    return float(value) if isinstance(value, int | float) and abs(value) < 1e30 else default


def whole(value: Any) -> int:
    """A count or a number of a rollout in a foreign row; 0 for anything else."""
    return int(value) if isinstance(value, int | float) and 0 <= value < 2**31 else 0


def text(value: Any) -> str:
    """A text of a foreign row; anything else as JSON."""
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)


def reference(value: Any) -> tuple[int, int]:
    """``step:rollout_id`` as two numbers; (-1, -1) where it is none."""
    match = re.fullmatch(r"(\d{1,9}):(\d{1,15})", value) if isinstance(value, str) else None
    return (int(match[1]), int(match[2])) if match else (-1, -1)
