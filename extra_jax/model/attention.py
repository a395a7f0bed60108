"""Attention over grouped query heads: XLA einsums on every backend. Kernels belong here, so that model code never asks
what it runs on."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp


class AttentionMask(NamedTuple):
    """Who may look at whom, as positions and segments rather than as a matrix.

    A query sees a key when both are in the same segment and the key is not later. Segment 0 is padding.

    Attributes:
        positions: ``[B, T]`` int32.
        segments: ``[B, T]`` int32, or ``None`` when every row is one segment.
    """

    positions: jax.Array
    segments: jax.Array | None = None

    def matrix(self) -> jax.Array:
        """``[B, T, T]`` bool, queries x keys; 1 allows."""
        allowed = self.positions[:, None, :] <= self.positions[:, :, None]
        if self.segments is not None:
            allowed &= self.segments[:, :, None] == self.segments[:, None, :]
        return allowed


class Past(NamedTuple):
    """Keys and values of tokens before the ones at hand, read only. Every query of a row sees all valid ones.

    The axis orders are those in which the two matmuls of attention read memory without transposing it.

    Attributes:
        k: ``[B, K, H, C]``.
        v: ``[B, K, C, H]``.
        valid: ``[B, C]`` bool; 1 marks a slot that holds a token of the row.
    """

    k: jax.Array
    v: jax.Array
    valid: jax.Array


def attend(q: jax.Array, k: jax.Array, v: jax.Array, mask: AttentionMask, past: Sequence[Past] = ()) -> jax.Array:
    """Scaled dot-product attention, softmax in f32.

    Args:
        q: ``[B, T, N, H]``.
        k: ``[B, T, K, H]`` with ``N`` a multiple of ``K``; never repeated to ``N`` heads.
        v: ``[B, T, K, H]``.
        mask: which of these keys each query sees; at least one (itself).
        past: further keys and values, in parts; one softmax goes over all of them.

    Returns:
        ``[B, T, N, H]`` in the dtype of ``q``.
    """
    batch, length, heads, head_dim = q.shape
    kv_heads = k.shape[2]
    q = q.reshape(batch, length, kv_heads, heads // kv_heads, head_dim)

    def masked(equation: str, keys: jax.Array, allowed: jax.Array) -> jax.Array:
        scores = jnp.einsum(equation, q.astype(keys.dtype), keys, preferred_element_type=jnp.float32) * head_dim**-0.5
        return jnp.where(allowed, scores, jnp.finfo(jnp.float32).min)

    scores = [masked("btkgh,bskh->bkgts", k, mask.matrix()[:, None, None])]
    # Widened, because XLA:CPU has no bf16 dot with an f32 result in this, its fastest, axis order. On TPU no widened
    # copy is made: the temporaries of a decode chunk are smaller than one would be (benchmarks/rollout).
    wide = [Past(part.k.astype(jnp.float32), part.v.astype(jnp.float32), part.valid) for part in past]
    scores += [masked("btkgh,bkhc->bkgtc", part.k, part.valid[:, None, None, None]) for part in wide]
    highest = functools.reduce(jnp.maximum, [part.max(axis=-1, keepdims=True) for part in scores])
    weights = [jnp.exp(part - jax.lax.stop_gradient(highest)) for part in scores]
    total = sum(part.sum(axis=-1) for part in weights)
    out = jnp.einsum("bkgts,bskh->btkgh", weights[0].astype(v.dtype), v, preferred_element_type=jnp.float32)
    for part, weight in zip(wide, weights[1:], strict=True):
        out += jnp.einsum("bkgtc,bkch->btkgh", weight.astype(v.dtype).astype(jnp.float32), part.v)
    out /= jnp.moveaxis(total, 3, 1)[..., None]
    return out.reshape(batch, length, heads, head_dim).astype(v.dtype)
