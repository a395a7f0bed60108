"""Attention over grouped query heads.

One function chooses how attention is computed. ``XLA`` einsums serve every backend today; kernels join
here, so that model code never asks what it runs on.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class AttentionMask(NamedTuple):
    """Who may look at whom, as positions and segments rather than as a matrix.

    A query sees a key when both are in the same segment and the key is not later. Segment 0 is padding.

    Attributes:
        q_positions: ``[B, T]`` int32.
        kv_positions: ``[B, S]`` int32.
        q_segments: ``[B, T]`` int32, or ``None`` when every row is one segment.
        kv_segments: ``[B, S]`` int32, or ``None`` likewise.
    """

    q_positions: jax.Array
    kv_positions: jax.Array
    q_segments: jax.Array | None = None
    kv_segments: jax.Array | None = None

    def matrix(self) -> jax.Array:
        """``[B, T, S]`` bool; 1 allows."""
        allowed = self.kv_positions[:, None, :] <= self.q_positions[:, :, None]
        if self.q_segments is not None:
            allowed &= self.q_segments[:, :, None] == self.kv_segments[:, None, :]
        return allowed


def attend(q: jax.Array, k: jax.Array, v: jax.Array, mask: AttentionMask) -> jax.Array:
    """Scaled dot-product attention, softmax in f32.

    Args:
        q: ``[B, T, N, H]``.
        k: ``[B, S, K, H]`` with ``N`` a multiple of ``K``; never repeated to ``N`` heads.
        v: ``[B, S, K, H]``.
        mask: which keys each query sees; a query that sees none gets an average of all values.

    Returns:
        ``[B, T, N, H]`` in the dtype of ``q``.
    """
    batch, length, heads, head_dim = q.shape
    kv_heads = k.shape[2]
    grouped = q.reshape(batch, length, kv_heads, heads // kv_heads, head_dim)
    scores = jnp.einsum("btkgh,bskh->bkgts", grouped, k, preferred_element_type=jnp.float32) * head_dim**-0.5
    scores = jnp.where(mask.matrix()[:, None, None], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    out = jnp.einsum("bkgts,bskh->btkgh", weights, v)
    return out.reshape(batch, length, heads, head_dim).astype(q.dtype)
