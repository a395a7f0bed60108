"""The jitted sampler: one prefill for each prompt, then a ``while_loop`` over tokens."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from extra_jax.model.qwen3 import KVCache, Qwen3
from extra_jax.parallel.sharding import constrain
from extra_jax.rollout.sampling import row_keys, sample
from extra_jax.rollout.types import SamplingParams


class Samples(NamedTuple):
    """Result of one batch, ``R`` rows; see ``rollout.types.Rollouts`` for the meaning.

    ``stopped`` is ``[R]`` bool: 1 where a stop token ended the row, 0 where the cap did.
    """

    tokens: jax.Array
    logprobs: jax.Array
    entropies: jax.Array
    lengths: jax.Array
    stopped: jax.Array


class _Loop(NamedTuple):
    """State of the decode loop. ``token [R]`` is the last one drawn, at ``position [R]``."""

    samples: Samples
    cache: KVCache
    token: jax.Array
    position: jax.Array


def generate(
    model: Qwen3,
    prompts: jax.Array,
    prompt_lengths: jax.Array,
    rollout_ids: jax.Array,
    seed: int,
    step: jax.Array,
    *,
    params: SamplingParams,
    stop_ids: tuple[int, ...],
    dtype: str,
) -> Samples:
    """Samples ``G = R / P`` completions for each prompt.

    Args:
        model: weights in the rollout layout.
        prompts: ``[P, T]`` int32, right-padded.
        prompt_lengths: ``[P]`` int32, at least 1.
        rollout_ids: ``[R]`` uint32; the rows of a prompt are adjacent.
        seed: of the run, together with ``step`` and the ids the only source of randomness.
        step: scalar uint32.
        params: static.
        stop_ids: static; drawing one of them ends a row, and the token is kept.
        dtype: static, of activations and cache.
    """
    group = rollout_ids.shape[0] // prompts.shape[0]
    hidden, cache = _prefill(model, prompts, prompt_lengths, params.max_completion_length, dtype)
    hidden, lengths = jnp.repeat(hidden, group, axis=0), jnp.repeat(prompt_lengths, group, axis=0)
    cache = KVCache(*(_shard_cache(jnp.repeat(x, group, axis=1)) for x in cache))
    keys = row_keys(seed, step, rollout_ids)
    stops = jnp.asarray(stop_ids, jnp.int32)

    def draw(samples: Samples, hidden: jax.Array, position: jax.Array) -> tuple[Samples, jax.Array]:
        """Draws the token at ``position`` of every live row and writes it down."""
        logits = constrain(model.logits(hidden), "batch", "vocab")
        token, logprob, entropy = sample(logits, keys, position, params)
        column = position - lengths
        live = ~samples.stopped
        write = jnp.where(live, column, params.max_completion_length)  # a finished row writes out of bounds: dropped
        row = jnp.arange(write.shape[0])
        samples = Samples(
            samples.tokens.at[row, write].set(token, mode="drop"),
            samples.logprobs.at[row, write].set(logprob, mode="drop"),
            samples.entropies.at[row, write].set(entropy, mode="drop"),
            jnp.where(live, column + 1, samples.lengths),
            samples.stopped | jnp.isin(token, stops),
        )
        return samples, token

    def body(loop: _Loop) -> _Loop:
        hidden, cache = model(loop.token[:, None], loop.position[:, None], cache=loop.cache, dtype=dtype)
        position = loop.position + 1
        samples, token = draw(loop.samples, hidden[:, 0], position)
        return _Loop(samples, cache, token, position)

    def unfinished(loop: _Loop) -> jax.Array:
        return jnp.any(~loop.samples.stopped) & (loop.position[0] - lengths[0] + 1 < params.max_completion_length)

    rows = rollout_ids.shape[0]
    empty = jnp.zeros((rows, params.max_completion_length), jnp.int32)
    blank = Samples(empty, empty.astype(jnp.float32), empty.astype(jnp.float32), empty[:, 0], jnp.zeros(rows, bool))
    samples, token = draw(blank, hidden, lengths)
    return jax.lax.while_loop(unfinished, body, _Loop(samples, cache, token, lengths)).samples


def _prefill(model: Qwen3, prompts: jax.Array, lengths: jax.Array, room: int, dtype: str) -> tuple[jax.Array, KVCache]:
    """Hidden state ``[P, D]`` of each prompt's last token, and a cache with ``room`` more slots.

    Padding is written to slots that decoding overwrites before it can see them.
    """
    positions = jnp.broadcast_to(jnp.arange(prompts.shape[1], dtype=jnp.int32), prompts.shape)
    hidden, kv = model(prompts, positions, dtype=dtype)
    last = jnp.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)[:, 0]
    return last, KVCache(*(jnp.pad(x, ((0, 0), (0, 0), (0, room), (0, 0), (0, 0))) for x in kv))


def _shard_cache(x: jax.Array) -> jax.Array:
    return constrain(x, None, "batch", None, "kv_heads", None)
