"""Causal attention of whole sequences on TPU, through the splash kernel that ships with JAX.

It never writes the ``[T, T]`` scores to memory, forward or backward, and skips the blocks above the diagonal.
"""

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

from extra_jax.model.kernels import on_each_device

_LANES = 128  # a block of the kernel is a multiple of this
_BLOCK = 512
_BLOCK_NAMES = ("block_q", "block_kv", "block_q_dkv", "block_kv_dkv", "block_q_dq", "block_kv_dq")


def supports(length: int, head_dim: int) -> bool:
    """Whether the kernel takes sequences of ``length`` tokens and heads of this size."""
    return length % _LANES == 0 and head_dim % _LANES == 0


def causal_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array | None, *, interpret: bool = False
) -> jax.Array:
    """Each token sees those before it, and itself, in its segment.

    Args:
        q: ``[B, T, N, H]``; tokens of a segment are in the order of their positions.
        k: ``[B, T, K, H]`` with ``N`` a multiple of ``K``.
        v: ``[B, T, K, H]``.
        segments: ``[B, T]`` int32, or ``None`` when every row is one segment.
        interpret: run the kernel on any backend, slowly.

    Returns:
        ``[B, T, N, H]`` in the dtype of ``v``.
    """
    if segments is None:
        segments = jnp.ones(q.shape[:2], jnp.int32)

    def local(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array) -> jax.Array:
        length, heads, head_dim = q.shape[1:]
        block = max(size for size in range(_LANES, min(_BLOCK, length) + 1, _LANES) if length % size == 0)
        kernel = splash.make_splash_mha(
            masks.MultiHeadMask([masks.CausalMask((length, length)) for _ in range(heads)]),
            head_shards=1,
            q_seq_shards=1,
            block_sizes=splash.BlockSizes(**dict.fromkeys(_BLOCK_NAMES, block)),
            interpret=interpret,
        )
        q = (q * head_dim**-0.5).astype(q.dtype)
        rows = (x.swapaxes(1, 2) for x in (q, k, v))
        out = jax.vmap(kernel)(*rows, segment_ids=splash.SegmentIds(segments, segments))
        return out.swapaxes(1, 2).astype(v.dtype)

    return on_each_device(local, q, k, v, segments)
