"""What the kernels of attention share: each runs on the rows and heads that a device holds."""

from collections.abc import Callable

import jax

from extra_jax.model.mask import AttentionMask
from extra_jax.parallel.sharding import TRAIN


def on_each_device(
    kernel: Callable[..., jax.Array], q: jax.Array, k: jax.Array, v: jax.Array, mask: AttentionMask
) -> jax.Array:
    """``kernel(q, k, v, mask)``, for each device of the mesh in scope on its own rows and heads.

    A kernel is opaque to the partitioner, which would gather its arguments otherwise.

    Args:
        kernel: of the arguments below, smaller in ``B``, ``N`` and ``K``.
        q: ``[B, T, N, H]``.
        k: ``[B, T, K, H]``.
        v: ``[B, T, K, H]``.
        mask: of ``[B, T]`` tokens.

    Returns:
        ``[B, T, N, H]``.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return kernel(q, k, v, mask)
    queries, keys = TRAIN.spec("batch", None, "heads", None), TRAIN.spec("batch", None, "kv_heads", None)
    specs = (queries, keys, keys, TRAIN.spec("batch", None))
    return jax.shard_map(kernel, in_specs=specs, out_specs=queries, check_vma=False)(q, k, v, mask)
