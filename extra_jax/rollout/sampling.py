"""Drawing a token and the numbers that go with it: pure functions of logits."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from extra_jax.model.numerics import entropy_and_log_total
from extra_jax.rollout.types import SamplingParams


def row_keys(seed: int | jax.Array, noise: jax.Array, rollout_ids: jax.Array) -> jax.Array:
    """``[R]`` keys from identities alone (docs/design.md, decision 6); fold in the position to draw a token.

    Args:
        seed: of the sampler.
        noise: ``[R]`` uint32, or one for all rows: the step, or what a request has in its place.
        rollout_ids: ``[R]`` uint32.
    """

    def row_key(noise: jax.Array, rollout_id: jax.Array) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), noise), rollout_id)

    return jax.vmap(row_key)(jnp.broadcast_to(noise, rollout_ids.shape), rollout_ids)


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


def _categorical(keys: jax.Array, logits: jax.Array) -> jax.Array:
    """``[R]`` tokens, those of ``jax.random.categorical`` for each row of ``logits [R, V]`` with its key.

    The largest of the perturbed logits, then where it is: XLA:CPU runs a reduction over pairs, as ``argmax`` is, one
    element at a time, and the logarithms of the noise with it.
    """
    size = logits.shape[-1]
    noise = jax.vmap(lambda key: jax.random.gumbel(key, (size,), logits.dtype))(keys)
    perturbed = jax.lax.optimization_barrier(logits + noise)  # computed once, so that the largest equals itself
    is_largest = perturbed == jnp.max(perturbed, axis=-1, keepdims=True)
    first = jnp.min(jnp.where(is_largest, jnp.arange(size), size), axis=-1)
    return jnp.minimum(first, size - 1)  # logits that are not numbers have no largest


class Draw(NamedTuple):
    """One token for each of ``R`` rows; the numbers are those of the same names in ``Rollouts``."""

    token: jax.Array
    logprob: jax.Array
    full_logprob: jax.Array
    filter_logprob_mass: jax.Array
    entropy: jax.Array


def sample(logits: jax.Array, keys: jax.Array, positions: jax.Array, params: SamplingParams) -> Draw:
    """Draws one token a row.

    Args:
        logits: ``[R, V]`` f32.
        keys: ``[R]`` from ``row_keys``.
        positions: ``[R]`` int32, position in the sequence of the token to draw.
        params: temperature 0 takes the most likely token, and reports its log-probability at temperature 1.
    """

    def at(x: jax.Array) -> jax.Array:
        return jnp.take_along_axis(x, tokens[:, None], axis=-1)[:, 0]

    spread, log_total = entropy_and_log_total(logits)
    if params.temperature == 0.0:
        tokens = jnp.argmax(logits, axis=-1)
        full = at(logits) - log_total
        return Draw(tokens.astype(jnp.int32), full, full, jnp.zeros_like(full), spread)
    kept = filter_logits(logits, params)
    tokens = _categorical(jax.vmap(jax.random.fold_in)(keys, positions), kept)
    full = at(logits) - log_total
    log_all = log_total if params.temperature == 1.0 else jax.nn.logsumexp(logits / params.temperature, axis=-1)
    filtered = params.top_k or params.top_p < 1.0 or params.min_p
    filter_logprob_mass = jax.nn.logsumexp(kept, axis=-1) - log_all if filtered else jnp.zeros_like(full)
    return Draw(tokens.astype(jnp.int32), at(kept) - log_all - filter_logprob_mass, full, filter_logprob_mass, spread)
