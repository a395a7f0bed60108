"""Slots: the rows that decode side by side, and the programs that move keys and values between them.

A token lies in the cache at its position, so nothing is ever left-padded. While a chunk of tokens is decoded the cache
is only read; the keys and values of the new tokens are kept beside it and written into it once, when the chunk ends.

Rows are split over ``shards`` of the mesh. Copies go from row to row within a shard and never cross it.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from extra_jax.model.attention import platform
from extra_jax.model.config import Qwen3Config
from extra_jax.model.qwen3 import KeysValues
from extra_jax.parallel.sharding import constrain

T = TypeVar("T")
KEEP = -1
"""Target of a copy that is not made: copies come in arrays of one size, which are padded with it."""


class Slots(NamedTuple):
    """State of ``S`` rows; a row that is not ``live`` holds leftovers, which others may still copy from."""

    kv: KeysValues  # cache, [S, K, C/P*H, P] and [S, K, C, H] per layer (`attention.Past`)
    token: jax.Array  # [S] int32, the last token, which is not in the cache yet
    position: jax.Array  # [S] int32, its position; the cache holds every position before it
    limit: jax.Array  # [S] int32, the row ends when it is this long
    noise: jax.Array  # [S] uint32, the step, or what a request has in its place
    rollout_id: jax.Array  # [S] uint32, with `noise` the identity of the row's draws
    live: jax.Array  # [S] bool

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

    k = _by_layer(fit_keys, slots.kv.k)
    return slots._replace(kv=KeysValues(k, _by_layer(lambda x: shard_cache(fit(x, x.ndim - 2)), slots.kv.v)))


def select(slots: Slots, source: jax.Array, shards: int) -> Slots:
    """Only the rows ``source [S']``, numbered within their shard, in this order."""

    def row(x: jax.Array) -> jax.Array:
        return _take(x, source, shards, 0)

    kv = _by_layer(lambda x: shard_cache(row(x)), slots.kv)
    return Slots(kv, *map(row, slots[1:]))


def clone(slots: Slots, copies: Copies, length: int, shards: int) -> Slots:
    """Copies the first ``length`` positions, or the pages that hold them, from rows to rows of the same shard."""

    def copy(x: jax.Array, lead: tuple[int, int]) -> jax.Array:
        axis = x.ndim - 4
        size = (*x.shape[:axis], 1, x.shape[axis + 1], *lead)

        def read(x: jax.Array, source: jax.Array) -> jax.Array:  # as a gather, a TPU would copy the whole cache
            return jnp.concatenate([jax.lax.dynamic_slice(x, (*[0] * axis, at, 0, 0, 0), size) for at in source], axis)

        return _put(x, _by_shard(read, x, copies.source, shards, axis), copies.target, shards)

    k = jax.tree.map(lambda x: copy(x, _first(x, length, _head_dim(slots.kv))), slots.kv.k)
    return slots._replace(kv=KeysValues(k, jax.tree.map(lambda x: copy(x, (length, x.shape[-1])), slots.kv.v)))


def load(slots: Slots, new: KeysValues, copies: Copies, shards: int) -> Slots:
    """Writes freshly computed keys and values, ``[P, T, K, H]`` per layer, to the start of the rows that want them.

    Args:
        slots: whose capacity is at least ``T``.
        new: rows are split over the shards like slots.
        copies: from rows of ``new``.
        shards: number of shards.
    """

    def pick(fresh: jax.Array) -> jax.Array:
        return _take(fresh, copies.source, shards, fresh.ndim - 4)

    def keys(x: jax.Array, fresh: jax.Array) -> jax.Array:
        lead = _first(x, fresh.shape[-3], size := fresh.shape[-1])
        fresh = jnp.moveaxis(pick(fresh), -3, -1)  # [n, K, H, T]
        missing = lead[0] // size * lead[1] - fresh.shape[-1]
        fresh = jnp.pad(fresh, [(0, 0)] * (fresh.ndim - 1) + [(0, missing)])
        return _put(x, _into_pages(fresh, lead[1]), copies.target, shards)

    def values(x: jax.Array, fresh: jax.Array) -> jax.Array:
        return _put(x, pick(fresh).swapaxes(-3, -2), copies.target, shards)

    return slots._replace(kv=KeysValues(jax.tree.map(keys, slots.kv.k, new.k), jax.tree.map(values, slots.kv.v, new.v)))


def append(kv: KeysValues, recent: KeysValues, start: jax.Array) -> KeysValues:
    """Writes the tokens of a chunk, ``[S, K, H, R]`` and ``[S, K, R, H]`` per layer, to positions ``start [S]`` on.
    In rows at rest, where they may not fit, they go to the last positions, which hold nothing that is needed."""

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


def _by_layer(function: Callable[[jax.Array], jax.Array], kv: T) -> T:
    """``function`` of the cache of each layer. Of stacked layers one after the other, so that besides the new cache
    there is room for one layer and not for copies of all of them."""
    return jax.tree.map(lambda x: jax.lax.map(function, x) if x.ndim == 5 else function(x), kv)


def _head_dim(kv: KeysValues) -> int:
    return jax.tree.leaves(kv.v)[0].shape[-1]


def _into_pages(x: jax.Array, page: int) -> jax.Array:
    """``[..., H, C] -> [..., C/P*H, P]``."""
    return x.reshape(*x.shape[:-1], -1, page).swapaxes(-3, -2).reshape(*x.shape[:-2], -1, page)


def _out_of_pages(x: jax.Array, size: int) -> jax.Array:
    """``[..., C/P*H, P] -> [..., H, C]``."""
    return x.reshape(*x.shape[:-2], -1, size, x.shape[-1]).swapaxes(-3, -2).reshape(*x.shape[:-2], size, -1)


def _first(x: jax.Array, length: int, size: int) -> tuple[int, int]:
    """Sizes of the last two axes that hold the keys of the first ``length`` positions: as many whole pages as these
    positions need, or only those positions where the row is a single page."""
    if x.shape[-2] == size:
        return size, length
    return -(-length // x.shape[-1]) * size, x.shape[-1]


def shard_cache(x: jax.Array) -> jax.Array:
    """Rows over the data axes, kv heads over ``tensor``."""
    return constrain(x, *[None] * (x.ndim - 4), "batch", "kv_heads", None, None)


def _take(x: jax.Array, source: jax.Array, shards: int, axis: int) -> jax.Array:
    """Rows ``source`` of ``x`` along ``axis``, looked up within each shard."""
    return _by_shard(lambda x, at: jnp.take(x, at, axis=axis), x, source, shards, axis)


def _by_shard(function: Callable, x: jax.Array, at: jax.Array, shards: int, axis: int) -> jax.Array:
    """``function(x, at)`` of the rows of each shard and the numbers of some of them."""
    of_shard = jax.vmap(function, in_axes=(axis, 0), out_axes=axis)
    out = of_shard(_split(x, shards, axis), at.reshape(shards, -1))
    return out.reshape(*x.shape[:axis], -1, *out.shape[axis + 2 :])


def _put(x: jax.Array, rows: jax.Array, target: jax.Array, shards: int) -> jax.Array:
    """``rows`` become the beginning of rows ``target`` of ``x``, within each shard, in place; ``KEEP`` drops a row."""
    axis = x.ndim - 4
    parts = (slice(None), slice(rows.shape[-2]), slice(rows.shape[-1]))

    def put(x: jax.Array, rows: jax.Array, at: jax.Array) -> jax.Array:
        at = jnp.where(at == KEEP, x.shape[axis], at)
        return x.at[(*[slice(None)] * axis, at, *parts)].set(rows.astype(x.dtype), mode="drop")

    split, index = _split(x, shards, axis), target.reshape(shards, -1)
    out = jax.vmap(put, in_axes=(axis, axis, 0), out_axes=axis)(split, _split(rows, shards, axis), index)
    return shard_cache(out.reshape(x.shape))


def _split(x: jax.Array, shards: int, axis: int) -> jax.Array:
    return x.reshape(*x.shape[:axis], shards, -1, *x.shape[axis + 1 :])
