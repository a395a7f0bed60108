"""Packing sequences of different lengths into rows of one length."""

from bisect import bisect_left, insort
from collections.abc import Sequence

from extra_jax.errors import ExtraError


def best_fit(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """Puts each sequence, longest first, into the fullest row that still has room for it.

    Args:
        lengths: tokens of each sequence.
        row_length: tokens of a row.

    Returns:
        Indices of the sequences of each row; a function of the lengths alone. At most 11/9 of the fewest possible
        rows, plus one (Johnson 1973).

    Raises:
        ExtraError: a sequence is longer than a row.
    """
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, row), ascending
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[index]
        if length > row_length:
            raise ExtraError(f"a sequence of {length} tokens does not fit a row of {row_length}; raise the row length")
        at = bisect_left(room, (length, -1))
        left, row = room.pop(at) if at < len(room) else (row_length, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(index)
        insort(room, (left - length, row))
    return rows


def bucket(count: int) -> int:
    """The next of 1, 2, 3, 4, 6, 8, 12, 16, ...: few sizes, so few compilations, at most a third of them unused."""
    size = 1
    while size < count:
        size = max(size * 3 // 2, 2) if size & (size - 1) == 0 else size * 4 // 3
    return size
