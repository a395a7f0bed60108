"""Slots: the rows that decode side by side, and the programs that move keys and values between them.

The slot of a token in the cache is its position, so nothing is ever left-padded. While a chunk of tokens is
decoded the cache is only read; what the chunk adds is kept beside it and written in once, at its end.

Rows are split over ``shards`` of the mesh. Copies go from row to row within a shard and never cross it.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from extra_jax.model.config import Qwen3Config
from extra_jax.model.qwen3 import KeysValues
from extra_jax.parallel.sharding import constrain

KEEP = -1
"""Source of a row that stays as it is."""


class Slots(NamedTuple):
    """State of ``S`` rows; a row that is not ``live`` holds leftovers, which others may still copy from.

    Attributes:
        kv: cache, ``[S, K, H, C]`` and ``[S, K, C, H]`` per layer (``attention.Past``).
        token: ``[S]`` int32, the last token, which is not in the cache yet.
        position: ``[S]`` int32, its position; the cache holds every position before it.
        limit: ``[S]`` int32, the row ends when it is this long.
        rollout_id: ``[S]`` uint32.
        live: ``[S]`` bool.
    """

    kv: KeysValues
    token: jax.Array
    position: jax.Array
    limit: jax.Array
    rollout_id: jax.Array
    live: jax.Array

    @property
    def capacity(self) -> int:
        """``C``, positions that a row has room for."""
        return jax.tree.leaves(self.kv.v)[0].shape[-2]


def empty_slots(config: Qwen3Config, slots: int, capacity: int, dtype: str, scan: bool) -> Slots:
    """Made inside jit, so that no device ever holds more than its rows."""
    layers, heads, size = config.num_hidden_layers, config.num_key_value_heads, config.head_dim

    def zeros(*shape: int) -> jax.Array | tuple[jax.Array, ...]:
        if scan:
            return shard_cache(jnp.zeros((layers, slots, heads, *shape), dtype))
        return tuple(shard_cache(jnp.zeros((slots, heads, *shape), dtype)) for _ in range(layers))

    row = constrain(jnp.zeros(slots, jnp.int32), "batch")
    return Slots(
        KeysValues(zeros(size, capacity), zeros(capacity, size)), row, row, row, row.astype(jnp.uint32), row > 0
    )


def resize(slots: Slots, capacity: int) -> Slots:
    """More or fewer positions a row; live rows must fit."""

    def fit(x: jax.Array, axis: int) -> jax.Array:
        if x.shape[axis] >= capacity:
            return jax.lax.slice_in_dim(x, 0, capacity, axis=axis)
        widths = [(0, 0)] * x.ndim
        widths[axis] = (0, capacity - x.shape[axis])
        return jnp.pad(x, widths)

    return slots._replace(kv=map_kv(lambda x, axis: shard_cache(fit(x, axis)), slots.kv))


def select(slots: Slots, source: jax.Array, shards: int) -> Slots:
    """Only the rows ``source [S']`` (within their shard), in this order; ``KEEP`` makes a row that is not live."""
    kv = jax.tree.map(lambda x: shard_cache(_take(x, source, shards, x.ndim - 4)), slots.kv)
    rows = jax.tree.map(lambda x: _take(x, source, shards, 0), slots[1:])
    return Slots(kv, *rows[:-1], rows[-1] & (source != KEEP))


def clone(slots: Slots, source: jax.Array, length: int, shards: int) -> Slots:
    """Copies the first ``length`` positions of row ``source[s]`` (within the shard) to row ``s``."""

    def copy(x: jax.Array, axis: int) -> jax.Array:
        head = jax.lax.slice_in_dim(x, 0, length, axis=axis)
        return _overwrite(x, _take(head, source, shards, x.ndim - 4), head, source)

    return slots._replace(kv=map_kv(copy, slots.kv))


def load(slots: Slots, new: KeysValues, source: jax.Array, shards: int) -> Slots:
    """Writes freshly computed keys and values, ``[P, T, K, H]`` per layer, to the start of the rows that want them.

    Args:
        slots: whose capacity is at least ``T``.
        new: rows are split over the shards like slots.
        source: ``[S]`` row of ``new`` (within the shard), or ``KEEP``.
        shards: number of shards.
    """

    def write(x: jax.Array, fresh: jax.Array, order: tuple[int, int, int]) -> jax.Array:
        batch = fresh.ndim - 4
        fresh = fresh.transpose(*range(batch + 1), *(batch + 1 + axis for axis in order)).astype(x.dtype)
        head = jax.lax.slice(x, (0,) * x.ndim, (*x.shape[:-2], *fresh.shape[-2:]))
        return _overwrite(x, _take(fresh, source, shards, batch), head, source)

    k = jax.tree.map(lambda x, y: write(x, y, (1, 2, 0)), slots.kv.k, new.k)
    v = jax.tree.map(lambda x, y: write(x, y, (1, 0, 2)), slots.kv.v, new.v)
    return slots._replace(kv=KeysValues(k, v))


def append(kv: KeysValues, recent: KeysValues, start: jax.Array) -> KeysValues:
    """Writes the tokens of a chunk, ``[S, K, H, R]`` and ``[S, K, R, H]`` per layer, to positions ``start [S]`` on."""

    def write(x: jax.Array, new: jax.Array, axis: int) -> jax.Array:
        def row(x: jax.Array, new: jax.Array, at: jax.Array) -> jax.Array:
            return jax.lax.dynamic_update_slice_in_dim(x, new, at, axis=x.ndim + axis)

        rows = jax.vmap(row)
        return shard_cache((rows if x.ndim == 4 else jax.vmap(rows, in_axes=(0, 0, None)))(x, new, start))

    k = jax.tree.map(lambda x, new: write(x, new, -1), kv.k, recent.k)
    return KeysValues(k, jax.tree.map(lambda x, new: write(x, new, -2), kv.v, recent.v))


def shard_cache(x: jax.Array) -> jax.Array:
    """Rows over the data axes, kv heads over ``tensor``."""
    return constrain(x, *[None] * (x.ndim - 4), "batch", "kv_heads", None, None)


def map_kv(function: Callable[[jax.Array, int], jax.Array], kv: KeysValues) -> KeysValues:
    """Applies ``function(array, position axis)`` to every layer."""
    k = jax.tree.map(lambda x: function(x, x.ndim - 1), kv.k)
    return KeysValues(k, jax.tree.map(lambda x: function(x, x.ndim - 2), kv.v))


def _take(x: jax.Array, source: jax.Array, shards: int, axis: int) -> jax.Array:
    """Rows ``source`` of ``x`` along ``axis``, looked up within each shard; ``KEEP`` takes any row."""
    split = x.reshape(*x.shape[:axis], shards, -1, *x.shape[axis + 1 :])
    index = jnp.maximum(source, 0).reshape(shards, -1)
    take = jax.vmap(lambda rows, at: jnp.take(rows, at, axis=axis), in_axes=(axis, 0), out_axes=axis)
    return take(split, index).reshape(*x.shape[:axis], -1, *x.shape[axis + 1 :])


def _overwrite(x: jax.Array, new: jax.Array, old: jax.Array, source: jax.Array) -> jax.Array:
    """The leading part of the rows with a source becomes ``new``; that of the others stays ``old``."""
    chosen = (source != KEEP).reshape(-1, 1, 1, 1)
    return shard_cache(jax.lax.dynamic_update_slice(x, jnp.where(chosen, new, old), (0,) * x.ndim))
