"""The two programs that run the model: ``prefill`` and ``decode_chunk``. Pure functions, to be jitted."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from extra_jax.model.qwen3 import Cache, KeysValues, Qwen3
from extra_jax.parallel.sharding import constrain
from extra_jax.rollout.cache import Slots, append, shard_cache
from extra_jax.rollout.sampling import Draw, row_keys, sample
from extra_jax.rollout.types import SamplingParams


class Resets(NamedTuple):
    """Rows that start anew in a chunk; the fields are those of ``Slots``, used where ``chosen [S]`` is 1. Rows that the
    host has ended have 1 in ``ended [S]``. They travel as the columns of one int32 array."""

    chosen: Any
    ended: Any
    token: Any
    position: Any
    limit: Any
    noise: Any
    rollout_id: Any


class Chunk(NamedTuple):
    """What a chunk drew. ``S`` rows, at most ``R`` tokens each."""

    drawn: Draw  # [S, R] each
    counts: jax.Array  # [S] int32, tokens drawn by each row
    stopped: jax.Array  # [S] bool, 1 where the last one was a stop token
    broken: jax.Array  # [S] int32, the first token of a live row whose logits were not finite; `R` for none


def prefill(model: Qwen3, contexts: jax.Array, dtype: str) -> KeysValues:
    """Keys and values of prompts with their prefixes, ``[P, T, K, H]`` per layer.

    The head is not applied: a slot feeds the last token of its context itself, so ``contexts`` do not contain it.

    Args:
        model: in the rollout layout.
        contexts: ``[P, T]`` int32, right-padded; what padding leaves behind is overwritten before it can be seen.
        dtype: static, of activations.
    """
    positions = jnp.broadcast_to(jnp.arange(contexts.shape[1], dtype=jnp.int32), contexts.shape)
    return model(contexts, positions, dtype=dtype)[1]


def decode_chunk(
    model: Qwen3,
    slots: Slots,
    resets: jax.Array,
    seed: jax.Array,
    tokens: jax.Array,
    *,
    length: int,
    params: SamplingParams,
    stop_ids: tuple[int, ...],
    dtype: str,
) -> tuple[Slots, Chunk]:
    """Draws up to ``tokens`` tokens for every live row. All devices draw equally many without asking each other whether
    a row is live.

    Args:
        model: in the rollout layout.
        slots: with room for ``length`` more positions than the longest live row has.
        resets: ``[S, 7]`` int32, the columns of ``Resets``: rows that begin or end now.
        seed: scalar uint32.
        tokens: scalar int32, at most ``length``.
        length: ``R``, static, as are the other keywords.
    """
    slots = _reset(slots, Resets(*jnp.moveaxis(resets, 1, 0)))
    keys = row_keys(seed, slots.noise, slots.rollout_id)
    stops = jnp.asarray(stop_ids, jnp.int32)
    rows, start = slots.token.shape[0], slots.position
    # The loop only reads the big cache, because a loop that also wrote to it might copy it for every token. The keys
    # and values of this chunk go to ``recent``, which is small; attention sees both.
    cached = Cache(slots.kv, jnp.arange(slots.capacity)[None] < start[:, None])
    recent = _room(slots.kv, length)
    zeros = jnp.zeros((rows, length), jnp.float32)
    blank = Chunk(
        Draw(zeros.astype(jnp.int32), zeros, zeros, zeros, zeros),
        counts=jnp.zeros_like(start),
        stopped=start < 0,
        broken=jnp.full_like(start, length),
    )

    def body(index: jax.Array, loop: tuple) -> tuple:
        token, live, recent, chunk = loop
        fresh = Cache(recent, jnp.broadcast_to(jnp.arange(length)[None] < index, (rows, length)))
        hidden, new = model(token[:, None], (start + index)[:, None], past=(cached, fresh), dtype=dtype)
        # The barrier orders the write after attention has read ``recent``, so that XLA writes in place.
        recent, new, hidden = jax.lax.optimization_barrier((recent, new, hidden))
        recent = _remember(recent, new, index)
        logits = constrain(model.logits(hidden[:, 0]), "batch", "vocab")
        position = start + index + 1  # of the token that is drawn, not of the one that was fed
        draw = sample(logits, keys, position, params)
        stopped = live & jnp.isin(draw.token, stops)
        # Rows that are not live draw as well, as the device computes all rows; their counts do not grow.
        chunk = Chunk(
            jax.tree.map(lambda all, new: all.at[:, index].set(new), chunk.drawn, draw),
            chunk.counts + live,
            chunk.stopped | stopped,
            jnp.where(live & ~jnp.isfinite(draw.entropy), jnp.minimum(chunk.broken, index), chunk.broken),
        )
        return draw.token, live & ~stopped & (position + 1 < slots.limit), recent, chunk

    token, live, recent, chunk = jax.lax.fori_loop(0, tokens, body, (slots.token, slots.live, recent, blank))
    slots = slots._replace(kv=append(slots.kv, recent, start), token=token, position=start + chunk.counts, live=live)
    return slots, chunk


def _reset(slots: Slots, resets: Resets) -> Slots:
    chosen = resets.chosen > 0

    def pick(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(chosen, new.astype(old.dtype), old)

    return slots._replace(
        token=pick(resets.token, slots.token),
        position=pick(resets.position, slots.position),
        limit=pick(resets.limit, slots.limit),
        noise=pick(resets.noise, slots.noise),
        rollout_id=pick(resets.rollout_id, slots.rollout_id),
        live=(slots.live & (resets.ended == 0)) | chosen,
    )


def _room(kv: KeysValues, length: int) -> KeysValues:
    """Zeros like the cache with ``length`` positions, in one page."""

    def zeros(x: jax.Array, *shape: int) -> jax.Array:
        return shard_cache(jnp.zeros((*x.shape[:-2], *shape), x.dtype))

    size = jax.tree.leaves(kv.v)[0].shape[-1]
    k = jax.tree.map(lambda x: zeros(x, size, length), kv.k)
    return KeysValues(k, jax.tree.map(lambda x: zeros(x, length, size), kv.v))


def _remember(recent: KeysValues, new: KeysValues, index: jax.Array) -> KeysValues:
    """Writes one token of all rows, ``[S, 1, K, H]`` per layer, to position ``index`` of the chunk."""

    def write(x: jax.Array, token: jax.Array, axis: int) -> jax.Array:
        token = jnp.expand_dims(jnp.squeeze(token, -3), axis)
        return jax.lax.dynamic_update_slice_in_dim(x, token.astype(x.dtype), index, axis=x.ndim + axis)

    k = jax.tree.map(lambda x, token: write(x, token, -1), recent.k, new.k)
    return KeysValues(k, jax.tree.map(lambda x, token: write(x, token, -2), recent.v, new.v))
