"""Whether what is asked of the sampler fits: refused with the numbers before anything runs."""

import math
import os

import jax.numpy as jnp
from jax.sharding import Mesh

from extra_jax.errors import ExtraError
from extra_jax.model.config import Qwen3Config
from extra_jax.parallel.sharding import batch_ways

_MOST = 128  # rows of a shard


def cache_bytes(config: Qwen3Config, slots: int, capacity: int, dtype: str) -> int:
    """Bytes of keys and values of ``slots`` rows of ``capacity`` positions, all devices together."""
    heads = config.num_key_value_heads * config.head_dim
    return 2 * config.num_hidden_layers * slots * capacity * heads * jnp.dtype(dtype).itemsize


def default_slots(config: Qwen3Config, mesh: Mesh, capacity: int, dtype: str) -> int:
    """Slots, all devices together: 128 a shard, where weights are read once for many rows, or what a third of the free
    memory holds; the rest is for what is not there yet (optimizer state, activations)."""
    per_slot = cache_bytes(config, 1, capacity, dtype) / min(mesh.shape["tensor"], config.num_key_value_heads)
    fits = max(1, int(free_bytes(mesh) / 3 / per_slot)) if free_bytes(mesh) < float("inf") else _MOST
    return batch_ways(mesh) * min(_MOST, 2 ** (fits.bit_length() - 1))


def default_chunk(max_completion_length: int) -> int:
    """Tokens between two looks of the host: a row that has finished waits for half a chunk, so short completions want
    short chunks; the looks themselves want long ones."""
    return 2 ** round(math.log2(max(1.0, math.sqrt(max_completion_length / 4))))


def check_context(config: Qwen3Config, longest: int) -> None:
    """Refuses sequences that are longer than the positions the model was made for."""
    if longest > config.max_position_embeddings:
        raise ExtraError(
            f"rollout.max_prompt_length + max_completion_length = {longest} tokens, but the model has "
            f"max_position_embeddings={config.max_position_embeddings}. Lower one of them"
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
    device = mesh.local_devices[0]
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    if device.platform != "cpu":
        return float("inf")  # a device that is only described, for compiling ahead of time
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / len(mesh.local_devices)
