"""Numbers that the sampler and the learner must compute alike."""

import jax
import jax.numpy as jnp

ROUND_AS_WRITTEN: dict[str, str | bool] = {"xla_allow_excess_precision": False}
"""Compiler options of every program that reports a log-probability. XLA otherwise keeps bf16 intermediates in f32
wherever it happens to fuse, so that sampler and learner, which fuse differently, round differently (docs/design.md,
decision 1)."""


def entropy(logits: jax.Array) -> jax.Array:
    """Shannon entropy in nats over the last axis, of the distribution at temperature 1.

    Right to a relative 1e-5 also where one token is nearly certain, which most tokens of a reasoning model are: there
    ``sum(p log p)`` would subtract numbers that agree in all but their last bits.
    """
    return entropy_and_log_total(logits)[0]


def entropy_and_log_total(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The entropy, and the log-sum-exp of the logits, which is a by-product of it."""
    highest = jnp.max(logits, axis=-1, keepdims=True)
    below = logits - highest
    weights = jnp.exp(below)
    # The largest logit adds exactly 1, so it is left out of the sum and log1p keeps the digits of the rest.
    rest = jnp.sum(jnp.where(below < 0, weights, 0.0), axis=-1) + (jnp.sum(below == 0, axis=-1) - 1)
    log_total = jnp.log1p(rest)
    return log_total - jnp.sum(weights * below, axis=-1) / (1.0 + rest), highest[..., 0] + log_total
