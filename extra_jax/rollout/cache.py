"""Slots: the rows that decode side by side, and the programs that move keys and values between them.

The slot of a token in the cache is its position, so nothing is ever left-padded. While a chunk of tokens is
decoded the cache is only read; what the chunk adds is kept beside it and written in once, at its end.

Rows are split over ``shards`` of the mesh. Copies go from row to row within a shard and never cross it.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from extra_jax.model.attention import platform
from extra_jax.model.config import Qwen3Config
from extra_jax.model.qwen3 import KeysValues
from extra_jax.parallel.sharding import constrain

KEEP = -1
"""Source of a row that stays as it is, target of a copy that is not made."""


class Slots(NamedTuple):
    """State of ``S`` rows; a row that is not ``live`` holds leftovers, which others may still copy from.

    Attributes:
        kv: cache, ``[S, K, C/P*H, P]`` and ``[S, K, C, H]`` per layer (``attention.Past``).
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


class Copies(NamedTuple):
    """Rows ``source [n]`` go to rows ``target [n]``, ``n / shards`` for each shard, numbered within it."""

    source: jax.Array
    target: jax.Array


def page_size(capacity: int) -> int:
    """Positions of a page of keys. A TPU wants a row in one piece; elsewhere 64 were fastest."""
    return capacity if platform() == "tpu" else 64


def whole_pages(capacity: int) -> int:
    """Positions that a row has room for when ``capacity`` are asked for."""
    page = page_size(capacity)
    return -(-capacity // page) * page


def empty_slots(config: Qwen3Config, slots: int, capacity: int, dtype: str, scan: bool) -> Slots:
    """Room for ``capacity`` positions a row, in whole pages. Made inside jit, where it is split."""
    layers, heads, size = config.num_hidden_layers, config.num_key_value_heads, config.head_dim
    page, capacity = page_size(capacity), whole_pages(capacity)

    def zeros(*shape: int) -> jax.Array | tuple[jax.Array, ...]:
        if scan:
            return shard_cache(jnp.zeros((layers, slots, heads, *shape), dtype))
        return tuple(shard_cache(jnp.zeros((slots, heads, *shape), dtype)) for _ in range(layers))

    row = constrain(jnp.zeros(slots, jnp.int32), "batch")
    return Slots(
        KeysValues(zeros(capacity // page * size, page), zeros(capacity, size)),
        row,
        row,
        row,
        row.astype(jnp.uint32),
        row > 0,
    )


def resize(slots: Slots, capacity: int) -> Slots:
    """More or fewer positions a row; live rows must fit."""
    page, length, size = page_size(capacity), whole_pages(capacity), _head_dim(slots.kv)

    def fit(x: jax.Array, axis: int) -> jax.Array:
        if x.shape[axis] >= length:
            return jax.lax.slice_in_dim(x, 0, length, axis=axis)
        widths = [(0, 0)] * x.ndim
        widths[axis] = (0, length - x.shape[axis])
        return jnp.pad(x, widths)

    def fit_keys(x: jax.Array) -> jax.Array:
        return shard_cache(_into_pages(fit(_out_of_pages(x, size), x.ndim - 1), page))

    k = jax.tree.map(fit_keys, slots.kv.k)
    return slots._replace(kv=KeysValues(k, jax.tree.map(lambda x: shard_cache(fit(x, x.ndim - 2)), slots.kv.v)))


def select(slots: Slots, source: jax.Array, shards: int) -> Slots:
    """Only the rows ``source [S']`` (within their shard), in this order; ``KEEP`` makes a row that is not live."""
    kv = jax.tree.map(lambda x: shard_cache(_take(x, source, shards, x.ndim - 4)), slots.kv)
    rows = jax.tree.map(lambda x: _take(x, source, shards, 0), slots[1:])
    return Slots(kv, *rows[:-1], rows[-1] & (source != KEEP))


def clone(slots: Slots, copies: Copies, length: int, shards: int) -> Slots:
    """Copies the first ``length`` positions, or the pages that hold them, from rows to rows of the same shard."""

    def keys(x: jax.Array) -> jax.Array:
        return _copy_rows(x, x, copies, _first(x, length, _head_dim(slots.kv)), shards)

    def values(x: jax.Array) -> jax.Array:
        return _copy_rows(x, x, copies, (length, x.shape[-1]), shards)

    return slots._replace(kv=KeysValues(jax.tree.map(keys, slots.kv.k), jax.tree.map(values, slots.kv.v)))


def load(slots: Slots, new: KeysValues, copies: Copies, shards: int) -> Slots:
    """Writes freshly computed keys and values, ``[P, T, K, H]`` per layer, to the start of the rows that want them.

    Args:
        slots: whose capacity is at least ``T``.
        new: rows are split over the shards like slots.
        copies: from rows of ``new``.
        shards: number of shards.
    """

    def keys(x: jax.Array, fresh: jax.Array) -> jax.Array:
        lead = _first(x, fresh.shape[-3], size := fresh.shape[-1])
        fresh = jnp.moveaxis(fresh, -3, -1)  # [P, K, H, T]
        missing = lead[0] // size * lead[1] - fresh.shape[-1]
        fresh = jnp.pad(fresh, [(0, 0)] * (fresh.ndim - 1) + [(0, missing)])
        return _copy_rows(x, _into_pages(fresh, lead[1]), copies, lead, shards)

    def values(x: jax.Array, fresh: jax.Array) -> jax.Array:
        fresh = fresh.swapaxes(-3, -2)
        return _copy_rows(x, fresh, copies, fresh.shape[-2:], shards)

    return slots._replace(kv=KeysValues(jax.tree.map(keys, slots.kv.k, new.k), jax.tree.map(values, slots.kv.v, new.v)))


def append(kv: KeysValues, recent: KeysValues, start: jax.Array) -> KeysValues:
    """Writes the tokens of a chunk, ``[S, K, H, R]`` and ``[S, K, R, H]`` per layer, to positions ``start [S]`` on.
    Where they would not fit, in rows at rest, they go to the last positions."""

    def value(x: jax.Array, new: jax.Array, at: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_slice_in_dim(x, new, at, axis=1)

    def key(x: jax.Array, new: jax.Array, at: jax.Array) -> jax.Array:
        (heads, size, length), page = new.shape, x.shape[-1]
        if x.shape[1] == size:  # one page
            return jax.lax.dynamic_update_slice_in_dim(x, new, at, axis=2)
        pages = x.reshape(heads, -1, size, page)
        position = jnp.minimum(at, pages.shape[1] * page - length) + jnp.arange(length)
        pages = pages.at[:, position // page, :, position % page].set(
            jnp.moveaxis(new, -1, 0), unique_indices=True, mode="promise_in_bounds"
        )
        return pages.reshape(x.shape)

    def write(row: Callable, x: jax.Array, new: jax.Array) -> jax.Array:
        rows = jax.vmap(row)
        return shard_cache((rows if x.ndim == 4 else jax.vmap(rows, in_axes=(0, 0, None)))(x, new, start))

    k = jax.tree.map(partial(write, key), kv.k, recent.k)
    return KeysValues(k, jax.tree.map(partial(write, value), kv.v, recent.v))


def _head_dim(kv: KeysValues) -> int:
    return jax.tree.leaves(kv.v)[0].shape[-1]


def _into_pages(x: jax.Array, page: int) -> jax.Array:
    """``[..., H, C] -> [..., C/P*H, P]``."""
    return x.reshape(*x.shape[:-1], -1, page).swapaxes(-3, -2).reshape(*x.shape[:-2], -1, page)


def _out_of_pages(x: jax.Array, size: int) -> jax.Array:
    """``[..., C/P*H, P] -> [..., H, C]``."""
    return x.reshape(*x.shape[:-2], -1, size, x.shape[-1]).swapaxes(-3, -2).reshape(*x.shape[:-2], size, -1)


def _first(x: jax.Array, length: int, size: int) -> tuple[int, int]:
    """How much of the last two axes holds the keys of the first ``length`` positions: whole pages, or of one page that
    part."""
    if x.shape[-2] == size:
        return size, length
    return -(-length // x.shape[-1]) * size, x.shape[-1]


def shard_cache(x: jax.Array) -> jax.Array:
    """Rows over the data axes, kv heads over ``tensor``."""
    return constrain(x, *[None] * (x.ndim - 4), "batch", "kv_heads", None, None)


def _take(x: jax.Array, source: jax.Array, shards: int, axis: int) -> jax.Array:
    """Rows ``source`` of ``x`` along ``axis``, looked up within each shard; ``KEEP`` takes any row."""
    split = x.reshape(*x.shape[:axis], shards, -1, *x.shape[axis + 1 :])
    index = jnp.maximum(source, 0).reshape(shards, -1)
    take = jax.vmap(lambda rows, at: jnp.take(rows, at, axis=axis), in_axes=(axis, 0), out_axes=axis)
    return take(split, index).reshape(*x.shape[:axis], -1, *x.shape[axis + 1 :])


def _copy_rows(x: jax.Array, origin: jax.Array, copies: Copies, lead: tuple[int, int], shards: int) -> jax.Array:
    """The leading part ``lead`` (of the last two axes) of rows of ``origin`` goes to rows of ``x``.

    No other row is read or written.
    """
    axis = x.ndim - 4

    def rows(at: jax.Array) -> tuple:
        return (*[slice(None)] * axis, at, slice(None), slice(lead[0]), slice(lead[1]))

    def within(x: jax.Array, origin: jax.Array, source: jax.Array, target: jax.Array) -> jax.Array:
        new = origin[rows(source)].astype(x.dtype)
        return x.at[rows(jnp.where(target == KEEP, x.shape[axis], target))].set(new, mode="drop")

    def split(x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:axis], shards, -1, *x.shape[axis + 1 :])

    source, target = (at.reshape(shards, -1) for at in copies)
    copy = jax.vmap(within, in_axes=(axis, axis, 0, 0), out_axes=axis)
    return shard_cache(copy(split(x), split(origin), source, target).reshape(x.shape))
