"""Which keys a query of whole sequences sees."""

from typing import NamedTuple

import jax


class AttentionMask(NamedTuple):
    """Who may look at whom, as positions and segments rather than as a matrix.

    A query sees a key when the key is not later and in the same segment, or in its context. Segment 0 is padding.
    Tokens of a segment are in the order of their positions, behind its context.

    Attributes:
        positions: ``[B, T]`` int32.
        segments: ``[B, T]`` int32, or ``None`` when every row is one segment.
        contexts: ``[B, T]`` int32, a further segment that a token sees (its own: none), or ``None`` when no token does.
    """

    positions: jax.Array
    segments: jax.Array | None = None
    contexts: jax.Array | None = None

    def matrix(self) -> jax.Array:
        """``[B, T, T]`` bool, queries x keys; 1 allows."""
        allowed = self.positions[:, None, :] <= self.positions[:, :, None]
        return allowed if self.segments is None else allowed & self.same_segment()

    def same_segment(self) -> jax.Array:
        """``[B, T, T]`` bool, queries x keys: 1 where the key is in the segment of the query, or in its context."""
        assert self.segments is not None  # without segments there is nothing to compare
        keys = self.segments[:, None, :]
        same = self.segments[:, :, None] == keys
        return same if self.contexts is None else same | (self.contexts[:, :, None] == keys)
