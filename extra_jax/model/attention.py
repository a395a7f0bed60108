"""Attention over grouped query heads. Which kernel computes it is decided here, so that model code never asks what it
runs on. For whole sequences the splash kernel on TPU and cuDNN's on GPU, where they take the shapes; plain matmuls for
everything else."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from extra_jax.model import cudnn, splash
from extra_jax.model.mask import AttentionMask

_TILE = 128  # queries; a block of them is a multiple


class Past(NamedTuple):
    """Keys and values of tokens before the ones at hand, read only. Every query of a row sees all valid ones.

    The axis orders are those in which the two matmuls of attention read memory without transposing it.

    Attributes:
        k: ``[B, K, C/P*H, P]``: pages ``[H, P]`` of ``P`` positions, one below the other. Matmuls on a CPU read strips
            of columns, which lie close together in memory only where rows are short.
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
    length = q.shape[1]
    if not past and platform() == "tpu" and splash.supports(length, q.shape[3]):
        return splash.causal_attention(q, k, v, mask)
    if not past and platform() in ("gpu", "cuda") and cudnn.supports(q, k, v):
        return cudnn.causal_attention(q, k, v, mask)
    allowed, block, outs = mask.matrix(), length if past else _block_length(length), []
    for start in range(0, length, block):
        rows, seen = slice(start, start + block), slice(start + block)
        outs.append(_attend(q[:, rows], k[:, seen], v[:, seen], allowed[:, rows, seen], past))
    return jnp.concatenate(outs, axis=1)


def _block_length(length: int) -> int:
    """Queries that look at the same keys, those up to the last of them. An eighth of ``length``, so that little more
    than half of all pairs is computed in few pieces, but whole tiles, so that the matmuls stay large."""
    return -(-length // (8 * _TILE)) * _TILE


def _attend(q: jax.Array, k: jax.Array, v: jax.Array, allowed: jax.Array, past: Sequence[Past]) -> jax.Array:
    """``attend`` by matmuls: ``q [B, T, N, H]``, ``k`` and ``v [B, S, K, H]``, ``allowed [B, T, S]``."""
    batch, length, heads, head_dim = q.shape
    kv_heads = k.shape[2]
    group = heads // kv_heads
    # Plain matmuls [B, K, rows, H] x [B, K, H, keys]: XLA:CPU runs any other order of axes five to ten times slower.
    q = q.reshape(batch, length, kv_heads, group, head_dim).transpose(0, 2, 1, 3, 4)
    q = q.reshape(batch, kv_heads, length * group, head_dim)
    own = Past(k.transpose(0, 2, 3, 1), v.transpose(0, 2, 1, 3), allowed)
    parts = [own, *(part._replace(valid=part.valid[:, None]) for part in past)]

    def scores_of(part: Past) -> jax.Array:
        pages = part.k.reshape(batch, kv_heads, -1, head_dim, part.k.shape[-1])
        queries = jnp.broadcast_to(q.astype(pages.dtype)[:, :, None], (*pages.shape[:3], *q.shape[2:]))
        scores = jnp.einsum("bkcmh,bkchp->bkcmp", queries, pages, preferred_element_type=jnp.float32)
        scores = scores.swapaxes(2, 3).reshape(batch, kv_heads, length, group, -1) * head_dim**-0.5
        scores = jnp.where(part.valid[:, None, :, None], scores, jnp.finfo(jnp.float32).min)
        return scores.reshape(batch, kv_heads, length * group, -1)

    scores = [scores_of(part) for part in parts]
    highest = functools.reduce(jnp.maximum, [part.max(axis=-1, keepdims=True) for part in scores])
    weights = [jnp.exp(part - jax.lax.stop_gradient(highest)) for part in scores]
    total = sum(part.sum(axis=-1, keepdims=True) for part in weights)
    out = sum(_matmul(weight.astype(v.dtype), part.v) for weight, part in zip(weights, parts, strict=True)) / total
    out = out.reshape(batch, kv_heads, length, group, head_dim).transpose(0, 2, 1, 3, 4)
    return out.reshape(batch, length, heads, head_dim).astype(v.dtype)


def platform() -> str:
    """Of the mesh in scope, which may be one that is only compiled for."""
    mesh = jax.sharding.get_abstract_mesh()
    return jax.default_backend() if mesh.empty else mesh.abstract_device.platform


def _matmul(x: jax.Array, y: jax.Array) -> jax.Array:
    """``[B, K, M, N] x [B, K, N, P] -> [B, K, M, P]`` with an f32 result."""
    return jnp.einsum("bkmn,bknp->bkmp", x, y, preferred_element_type=jnp.float32)
