"""Packing sequences of different lengths into rows of one length."""

from bisect import bisect_left, insort
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from extra_jax.errors import ExtraError

MAX_SHARING_ROW = 8192
"""Tokens of the longest rows in which sequences share contexts. Who sees whom is then a matrix: with it an update of
Qwen3-4B needs 0.6 GB more of a TPU at this length, four times that at twice the length."""


def shares_contexts(row_length: int) -> bool:
    """Whether sequences share contexts in rows of this length."""
    return row_length <= MAX_SHARING_ROW


class Shared(NamedTuple):
    """The beginning of a sequence, which it has in common with those of the same ``label``; a row holds it once."""

    label: Hashable
    tokens: int


@dataclass(frozen=True)
class Place:
    """Where a sequence lies in its row."""

    index: int  # of the sequence
    shared: int  # tokens at its beginning that others of the row may read, too
    start: int  # of these
    own: int  # start of the rest of it


def best_fit(lengths: Sequence[int], row_length: int, shared: Sequence[Shared] | None = None) -> list[list[int]]:
    """Puts each sequence, longest first, into the fullest row that still has room for it.

    Sequences with the same beginning are placed one after the other, the set with the most tokens first, and in a row
    that already holds this beginning if there is room.

    ``shared`` holds the beginnings of the sequences, where a row holds equal ones once; sizes are in tokens.

    Returns:
        Indices of the sequences of each row; a function of the arguments alone. Without ``shared`` at most 11/9 of the
        fewest possible rows, plus one (Johnson 1973).

    Raises:
        ExtraError: a sequence is longer than a row.
    """
    shared = [Shared(index, 0) for index in range(len(lengths))] if shared is None else shared
    totals: dict[Hashable, int] = {}  # of all sequences of a beginning; in the order in which they come
    for size, (label, tokens) in zip(lengths, shared, strict=True):
        totals[label] = totals.get(label, tokens) + size - tokens
    rank = {label: number for number, label in enumerate(totals)}
    order = sorted(range(len(lengths)), key=lambda i: (-totals[shared[i].label], rank[shared[i].label], -lengths[i]))
    rows: list[list[int]] = []
    left: list[int] = []  # tokens, of each row
    room: list[tuple[int, int]] = []  # (tokens left, row), ascending
    holders: dict[Hashable, list[int]] = {}  # rows that hold a beginning
    for index in order:
        (label, tokens), size = shared[index], lengths[index]
        if size > row_length:
            raise ExtraError(f"a sequence of {size} tokens does not fit a row of {row_length}; raise the row length")
        holding = holders.setdefault(label, [])
        if fullest := min(((left[row], row) for row in holding if left[row] >= size - tokens), default=None):
            at, size = bisect_left(room, fullest), size - tokens
        else:
            at = bisect_left(room, (size, -1))
        if at < len(room):
            _, row = room.pop(at)
        else:
            row = len(rows)
            rows.append([])
            left.append(row_length)
        if row not in holding:
            holding.append(row)
        rows[row].append(index)
        left[row] -= size
        insort(room, (left[row], row))
    return rows


def places(row: Sequence[int], lengths: Sequence[int], shared: Sequence[Shared] | None = None) -> list[Place]:
    """Where the sequences of a row lie in it, one after the other; an equal beginning stands before the first that has
    it. Arguments are those of ``best_fit``."""
    members: list[Place] = []
    starts: dict[Hashable, int] = {}
    end = 0
    for index in row:
        label, tokens = (index, 0) if shared is None else shared[index]
        if label not in starts:
            starts[label] = end
            end += tokens
        members.append(Place(index, tokens, starts[label], end))
        end += lengths[index] - tokens
    return members


def bucket(count: int) -> int:
    """The next of 1, 2, 3, 4, 6, 8, 12, 16, ...: few sizes, so few compilations, at most a third of them unused."""
    size = 1
    while size < count:
        size = max(size * 3 // 2, 2) if size & (size - 1) == 0 else size * 4 // 3
    return size
