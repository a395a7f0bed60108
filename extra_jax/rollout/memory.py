"""Whether what is asked of the sampler fits: refused with the numbers before anything runs."""

import math
import os

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from extra_jax.errors import ExtraError
from extra_jax.model.config import Qwen3Config
from extra_jax.parallel.processes import agree
from extra_jax.parallel.sharding import batch_ways

_MOST = 128  # rows of a shard
_CACHES = 2.3  # for which there is room
USABLE_GIB = {"TPU v4": 30.75, "TPU v5 lite": 15.75, "TPU v5": 95.73, "TPU v6 lite": 31.24, "TPU7x": 94.74}
"""Of each device, as the TPU compiler says it ("exceeds available HBM"); the rest of a chip is the system's."""


def cache_bytes(config: Qwen3Config, slots: int, capacity: int, dtype: str) -> int:
    """Bytes of keys and values of ``slots`` rows of ``capacity`` positions, all devices together."""
    heads = config.num_key_value_heads * config.head_dim
    return 2 * config.num_hidden_layers * slots * capacity * heads * jnp.dtype(dtype).itemsize


def default_slots(config: Qwen3Config, mesh: Mesh, capacity: int, dtype: str, free: float) -> int:
    """Slots, all devices together: 128 a shard, so that weights are read once for many rows, or fewer where
    these do not fit the bytes of a device that the weights and the optimizer leave ``free``. A program that makes
    another cache of one holds both for a moment, and the rest is left for the temporaries of all."""
    per_slot = cache_bytes(config, 1, capacity, dtype) / min(mesh.shape["tensor"], config.num_key_value_heads)
    return batch_ways(mesh) * max(1, int(min(free / _CACHES / per_slot, _MOST)))


def default_chunk(max_completion_length: int) -> int:
    """Tokens between two looks of the host: a row that has finished waits for half a chunk, so short completions want
    short chunks; the looks themselves want long ones."""
    return 2 ** round(math.log2(max(1.0, math.sqrt(max_completion_length / 4))))


def check_context(config: Qwen3Config, longest: int) -> None:
    """Refuses sequences that are longer than the positions that the model knows."""
    if longest > config.context_length:
        raise ExtraError(
            f"rollout.max_prompt_length + max_completion_length = {longest} tokens, but the model has "
            f"max_position_embeddings={config.context_length}. Lower one of them"
        )


def check_slots(config: Qwen3Config, mesh: Mesh, slots: int, capacity: int, dtype: str) -> None:
    """Refuses slots whose cache does not fit the memory that is left on a device, when all of them are full."""
    ways = batch_ways(mesh) * min(mesh.shape["tensor"], config.num_key_value_heads)
    needed, free = cache_bytes(config, slots, capacity, dtype) / ways, free_bytes(mesh)
    if needed > free:
        fits = int(slots * free / needed) // batch_ways(mesh) * batch_ways(mesh)
        raise ExtraError(
            f"rollout.slots={slots} need {needed / 1e9:.2f} GB of cache on each device for {capacity} tokens a row; "
            f"{free / 1e9:.2f} GB are free. At most rollout.slots={fits} fit; or lower rollout.max_completion_length"
        )


def free_bytes(mesh: Mesh) -> float:
    """Bytes that a device of this process has left; emulated CPU devices share the memory of the host."""
    local = set(mesh.devices.flat) & set(jax.local_devices())
    if not local:
        return float("inf")  # devices that are only described, for compiling ahead of time
    stats = next(iter(local)).memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    return usable_bytes(mesh)


def usable_bytes(mesh: Mesh) -> float:
    """Bytes of a device that programs may use in all, the same on every process and in a plan of the same chips."""
    device = mesh.devices.flat[0]
    if device.device_kind in USABLE_GIB:
        return USABLE_GIB[device.device_kind] * 2**30
    local = sorted(set(mesh.devices.flat) & set(jax.local_devices()), key=lambda device: device.id)
    stats = local[0].memory_stats() if local else None
    if stats and "bytes_limit" in stats:
        return float(agree(stats["bytes_limit"], np.min))
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return float(agree(pages // max(len(local), 1), np.min))
