"""Segments: where a trace is cut into the pieces that a process judge scores.

Everything happens on UTF-8 bytes. The bytes of a trace are those of its tokens joined, so a cut at a byte is a cut
between tokens by one binary search, and no token is decoded on its own (``docs/methods/exprl.md`` 3.1 describes what
decoding a window for each token costs and misses).
"""

import re
from dataclasses import dataclass

import numpy as np

from extra_jax.config import SegmentConfig
from extra_jax.errors import ExtraError

_BLANK_LINE = re.compile(rb"\n[ \t]*\n\s*(?=\S)")


@dataclass(frozen=True)
class Segments:
    """The pieces of one trace, in order and without gaps.

    Attributes:
        tokens: ``[T]`` int32, end of each piece in tokens; the last is the number of tokens (stop token included).
        characters: ``[T]`` int32, end of each piece in characters of ``text``; the last is its length.
        text: The trace; bytes that are no UTF-8 (a trace cut inside a character) are U+FFFD.
    """

    tokens: np.ndarray
    characters: np.ndarray
    text: str

    def __len__(self) -> int:
        return len(self.tokens)


class TokenBytes:
    """The UTF-8 bytes that each token of a vocabulary stands for.

    Args:
        table: One entry a token id; empty for special tokens.
    """

    def __init__(self, table: list[bytes]):
        self.table = table
        self.lengths = np.array([len(entry) for entry in table], np.int64)

    def join(self, ids: np.ndarray) -> bytes:
        """Bytes of a sequence of token ids; ids beyond the table (padding rows of an embedding) have none."""
        table, size = self.table, len(self.table)
        return b"".join([table[token] for token in ids.tolist() if token < size])

    def ends(self, ids: np.ndarray) -> np.ndarray:
        """``[n]`` int64: how many bytes there are up to and including each token."""
        known = ids < len(self.table)
        return np.cumsum(np.where(known, self.lengths[np.where(known, ids, 0)], 0))


class Segmenter:
    """Cuts traces by one rule; made once, used for every rollout.

    Args:
        vocabulary: Bytes of the policy's tokens.

    Raises:
        ExtraError: the delimiter is no regular expression.
    """

    def __init__(self, rule: SegmentConfig, vocabulary: TokenBytes):
        self.rule, self.vocabulary = rule, vocabulary
        try:
            self._delimiter = re.compile(rule.delimiter.encode(), re.MULTILINE)
        except re.error as error:
            raise ExtraError(f"segments.delimiter {rule.delimiter!r} is no regular expression: {error}") from error

    def cut(self, ids: np.ndarray) -> Segments:
        """The segments of one trace.

        Args:
            ids: ``[n]`` token ids of the completion, its stop token included; at least one.
        """
        raw, ends = self.vocabulary.join(ids), self.vocabulary.ends(ids)
        starts = self._starts(raw, ends, [match.start() for match in self._delimiter.finditer(raw)])
        if len(starts) == 1 and self.rule.fallback == "blank_lines":
            starts = self._starts(raw, ends, [match.end() for match in _BLANK_LINE.finditer(raw)])
        if len(starts) == 1 and self.rule.fallback == "equal_tokens":
            count = max(1, min(self.rule.max_segments, len(ids) // max(self.rule.min_tokens, 1)))
            firsts = np.linspace(0, len(ids), count + 1)[1:-1].astype(np.int64)  # first token of each further piece
            starts = self._starts(raw, ends, [int(ends[first - 1]) for first in firsts])
        starts = _merge_evenly(starts, self.rule.max_segments)
        borders = [*[at for at, _ in starts[1:]], len(raw)]
        pieces = [raw[a:b].decode(errors="replace") for a, b in zip([0, *borders], borders, strict=False)]
        return Segments(
            tokens=np.array([*[token for _, token in starts[1:]], len(ids)], np.int32),
            characters=np.cumsum([len(piece) for piece in pieces]).astype(np.int32),
            text="".join(pieces),
        )

    def _starts(self, raw: bytes, ends: np.ndarray, cuts: list[int]) -> list[tuple[int, int]]:
        """(byte, token) of the first entry of each segment; short pieces are merged."""
        total, shortest = len(ends), self.rule.min_tokens
        # A token that straddles a cut belongs to the piece in which it ends.
        firsts = np.searchsorted(ends, cuts, side="right").tolist()
        starts = [(0, 0)]
        for at, first in zip(cuts, firsts, strict=True):
            whole_character = at < len(raw) and raw[at] & 0xC0 != 0x80
            if whole_character and first - starts[-1][1] >= max(shortest, 1) and first < total:
                starts.append((at, first))
        if len(starts) > 1 and total - starts[-1][1] < shortest:
            starts.pop()
        return starts


def _merge_evenly(starts: list[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    """At most ``most`` segments, each of about equally many of the old ones."""
    if len(starts) <= most:
        return starts
    return [starts[index * len(starts) // most] for index in range(most)]


def token_segments(ends: np.ndarray) -> np.ndarray:
    """``[n]`` int64: which segment, from 0, each token belongs to."""
    return np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))
