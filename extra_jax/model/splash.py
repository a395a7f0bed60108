"""Causal attention of whole sequences on TPU, through the splash kernel that ships with JAX.

It never writes the ``[T, T]`` scores to memory, forward or backward, and skips the blocks above the diagonal. Where
sequences share a context it is given the mask, four bytes a pair, and skips all blocks in which nobody sees anybody.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

from extra_jax.model.kernels import on_each_device
from extra_jax.model.mask import AttentionMask

_LANES = 128  # a block of the kernel is a multiple of this
_BLOCK = 512


def supports(length: int, head_dim: int) -> bool:
    """Whether the kernel takes sequences of ``length`` tokens and heads of this size."""
    return length % _LANES == 0 and head_dim % _LANES == 0


def causal_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: AttentionMask, *, interpret: bool = False
) -> jax.Array:
    """Each token sees those before it, and itself, in its segment and in its context.

    Args:
        q: ``[B, T, N, H]``; tokens of a segment are in the order of their positions.
        k: ``[B, T, K, H]`` with ``N`` a multiple of ``K``.
        v: ``[B, T, K, H]``.
        mask: of ``[B, T]`` tokens.
        interpret: run the kernel on any backend, slowly.

    Returns:
        ``[B, T, N, H]`` in the dtype of ``v``.
    """
    length, _, head_dim = q.shape[1:]
    block = max(size for size in range(_LANES, min(_BLOCK, length) + 1, _LANES) if length % size == 0)
    make = functools.partial(
        splash.make_splash_mha,
        head_shards=1,
        q_seq_shards=1,
        block_sizes=splash.BlockSizes(
            block_q=block,
            block_kv=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            block_q_dq=block,
            block_kv_dq=block,
        ),
        interpret=interpret,
    )

    def attend_row(inputs: tuple) -> jax.Array:
        mask, *row = inputs
        kernel = make(AttentionMask(*(x[None] for x in mask)).matrix())  # one mask for all heads
        # JAX 0.12 makes an array of this flag, and then asks whether it is true
        kernel.fwd_mask_info = kernel.fwd_mask_info._replace(is_dynamic_mask=True)
        return kernel(*row)

    def local(q: jax.Array, k: jax.Array, v: jax.Array, mask: AttentionMask) -> jax.Array:
        rows = [x.swapaxes(1, 2) for x in ((q * head_dim**-0.5).astype(q.dtype), k, v)]
        if mask.contexts is not None:
            out = jax.lax.map(attend_row, (mask, *rows))
        else:
            kernel = make(masks.MultiHeadMask([masks.CausalMask((length, length)) for _ in range(q.shape[2])]))
            segments = jnp.ones(q.shape[:2], jnp.int32) if mask.segments is None else mask.segments
            out = jax.vmap(kernel)(*rows, segment_ids=splash.SegmentIds(segments, segments))
        return out.swapaxes(1, 2).astype(v.dtype)

    return on_each_device(local, q, k, v, mask)
