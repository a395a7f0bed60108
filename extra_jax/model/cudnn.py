"""Causal attention of whole sequences on NVIDIA GPUs, through cuDNN's flash attention (``jax.nn``).

No GPU was at hand: that it lowers to cuDNN's calls, forward and backward, and that the same call agrees with ours where
XLA implements it, is tested; it has not run on a GPU.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from extra_jax.model.kernels import on_each_device
from extra_jax.model.mask import AttentionMask

_DTYPES = (jnp.bfloat16, jnp.float16)
_MAX_HEAD_DIM = 128  # 256 from Hopper on; every Qwen3 has 128


def supports(q: jax.Array, k: jax.Array, v: jax.Array) -> bool:
    """Whether cuDNN takes these: half precision, an even length (for a gradient with a mask), a head of 8, 16 ... 128.

    Conditions of ``jax._src.cudnn.fused_attention_stablehlo.check_is_flash_attention`` in JAX 0.12.
    """
    length, head_dim = q.shape[1], q.shape[3]
    half = q.dtype in _DTYPES and q.dtype == k.dtype == v.dtype
    return half and length % 2 == 0 and head_dim % 8 == 0 and head_dim <= _MAX_HEAD_DIM


def causal_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: AttentionMask,
    *,
    implementation: Literal["cudnn", "xla"] = "cudnn",
) -> jax.Array:
    """Each token sees those before it, and itself, in its segment and in its context.

    Padding is a segment, so that no row is empty.

    Segments become a bias ``[B, 1, T, T]`` in the dtype of ``q``: 128 MiB for a row of 8,192 tokens. cuDNN's packed
    layout would do without, but runs on Hopper only and wants a bound on the segments of a row.

    Args:
        q: ``[B, T, N, H]``; tokens of a segment are in the order of their positions.
        k: ``[B, T, K, H]`` with ``N`` a multiple of ``K``.
        v: ``[B, T, K, H]``.
        mask: of ``[B, T]`` tokens.
        implementation: ``xla`` runs the same call on any backend, in any dtype.

    Returns:
        ``[B, T, N, H]`` in the dtype of ``q``.

    Raises:
        RuntimeError: cuDNN is not installed (of JAX; ``pip install 'jax[cuda12]'`` brings it).
    """

    def local(q: jax.Array, k: jax.Array, v: jax.Array, mask: AttentionMask) -> jax.Array:
        same = None if mask.segments is None else mask.same_segment()[:, None]
        return jax.nn.dot_product_attention(q, k, v, mask=same, is_causal=True, implementation=implementation)

    return on_each_device(local, q, k, v, mask)
