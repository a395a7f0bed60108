"""Drawing a token and the numbers that go with it: pure functions of logits."""

import jax
import jax.numpy as jnp

from extra_jax.rollout.types import SamplingParams

ROUND_AS_WRITTEN = {"xla_allow_excess_precision": False}
"""Compiler options of every program that reports a log-probability. XLA otherwise keeps bf16 intermediates in f32
wherever it happens to fuse, so that sampler and learner, which fuse differently, round differently (decision 1)."""


def row_keys(seed: int, step: jax.Array, rollout_ids: jax.Array) -> jax.Array:
    """``[R]`` keys from identities alone (design, decision 6); fold in the position to draw a token."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.vmap(lambda rollout_id: jax.random.fold_in(key, rollout_id))(rollout_ids)


def entropy(logits: jax.Array) -> jax.Array:
    """Shannon entropy in nats over the last axis, of the distribution at temperature 1.

    Right to a relative 1e-5 also where one token is nearly certain, which most tokens of a reasoning model are: there
    ``sum(p log p)`` would subtract numbers that agree in all but their last bits.
    """
    below = logits - jnp.max(logits, axis=-1, keepdims=True)
    weights = jnp.exp(below)
    rest = jnp.sum(jnp.where(below < 0, weights, 0.0), axis=-1) + (jnp.sum(below == 0, axis=-1) - 1)
    return jnp.log1p(rest) - jnp.sum(weights * below, axis=-1) / (1.0 + rest)


def filter_logits(logits: jax.Array, params: SamplingParams) -> jax.Array:
    """Logits of the sampling distribution: temperature, then top-k, top-p and min-p on its probabilities.

    Args:
        logits: ``[R, V]`` f32.
        params: what to apply; ``temperature`` must be > 0. Ties at a threshold are kept.

    Returns:
        ``[R, V]``, dropped tokens at -inf.
    """
    logits = logits / params.temperature
    if params.top_k:
        kth = jax.lax.top_k(logits, min(params.top_k, logits.shape[-1]))[0][:, -1:]
        logits = jnp.where(logits >= kth, logits, -jnp.inf)
    if params.top_p < 1.0:
        ordered = jnp.sort(logits, axis=-1, descending=True)
        probs = jax.nn.softmax(ordered, axis=-1)
        kept = jnp.cumsum(probs, axis=-1) - probs < params.top_p  # the mass before a token
        threshold = jnp.min(jnp.where(kept, ordered, jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where(logits >= threshold, logits, -jnp.inf)
    if params.min_p:
        floor = jnp.max(logits, axis=-1, keepdims=True) + jnp.log(params.min_p)
        logits = jnp.where(logits >= floor, logits, -jnp.inf)
    return logits


def sample(
    logits: jax.Array, keys: jax.Array, positions: jax.Array, params: SamplingParams
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Draws one token a row.

    Args:
        logits: ``[R, V]`` f32.
        keys: ``[R]`` from ``row_keys``.
        positions: ``[R]`` int32, position in the sequence of the token to draw.
        params: temperature 0 takes the most likely token, and reports its log-probability at temperature 1.

    Returns:
        Tokens ``[R]`` int32, their log-probabilities under the sampling distribution ``[R]`` f32, and the
        entropy ``[R]`` in nats of the full distribution at temperature 1.
    """
    if params.temperature == 0.0:
        tokens, filtered = jnp.argmax(logits, axis=-1), logits
    else:
        filtered = filter_logits(logits, params)
        tokens = jax.vmap(lambda key, at, row: jax.random.categorical(jax.random.fold_in(key, at), row))(
            keys, positions, filtered
        )
    chosen = jnp.take_along_axis(jax.nn.log_softmax(filtered, axis=-1), tokens[:, None], axis=-1)[:, 0]
    return tokens.astype(jnp.int32), chosen, entropy(logits)
