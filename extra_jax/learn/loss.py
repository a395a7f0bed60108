"""The loss of one batch of tokens, as pure functions.

How an update is averaged is decided once, by ``sequence_weights``: every loss type is a weight on each
token. The loss is then a plain weighted sum, so it cannot depend on how sequences are packed into rows, rows
into micro-batches, or micro-batches spread over devices.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from extra_jax.config import GRPOConfig
from extra_jax.parallel.processes import allgather

_MAX_LOG_RATIO = 20.0  # exp() stays finite; a ratio of e^20 is far outside every clip range


class Mean(NamedTuple):
    """A mean in parts, so that parts from different micro-batches add up; ``total / weight`` is taken once."""

    total: jax.Array
    weight: jax.Array


def sequence_weights(
    loss_type: Literal["grpo", "dr_grpo", "dapo", "bnpo"], lengths: np.ndarray, max_completion_length: int
) -> np.ndarray:
    """``[R]`` float64: weight of each token of each sequence in the loss of one optimizer update.

    - ``grpo``: mean over sequences of the mean over their tokens.
    - ``dr_grpo``: sum over tokens / (sequences * ``max_completion_length``).
    - ``dapo``: mean over all tokens of the update.
    - ``bnpo``: as ``dapo`` here; ``batch.micro_batches`` then averages within each micro-batch.

    Args:
        loss_type: TRL's ``GRPOConfig.loss_type``.
        lengths: ``[R]`` tokens in the loss of each sequence of this process; 0 for one that is left out, which
            counts as a sequence all the same.
        max_completion_length: tokens.
    """
    everywhere = allgather(np.asarray(lengths))
    counted = np.asarray(lengths) > 0
    if loss_type == "grpo":
        return counted / np.maximum(lengths, 1) / len(everywhere)
    if loss_type == "dr_grpo":
        return counted / (len(everywhere) * max_completion_length)
    return counted / max(everywhere.sum(), 1)


def kl_divergence(logprobs: jax.Array, ref_logprobs: jax.Array, estimator: Literal["k1", "k2", "k3"]) -> jax.Array:
    """Per-token estimate of KL(policy || reference) from the sampled token (Schulman, "Approximating KL divergence").

    With ``d = log reference - log policy``: k1 is ``-d``, k2 is ``d^2 / 2``, k3 is ``e^d - d - 1``.
    """
    d = jnp.clip(ref_logprobs - logprobs, -_MAX_LOG_RATIO, _MAX_LOG_RATIO)
    return {"k1": -d, "k2": 0.5 * d * d, "k3": jnp.exp(d) - d - 1.0}[estimator]


def policy_loss(
    config: GRPOConfig,
    logprobs: jax.Array,
    old_logprobs: jax.Array,
    advantages: jax.Array,
    ref_logprobs: jax.Array | None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Clipped surrogate loss of each token, and what happened to it. All arrays ``[B, T]`` f32.

    ``-min(min(rho, delta) A, clip(rho, 1 - epsilon, 1 + epsilon_high) A) + beta KL`` with
    ``rho = exp(logprobs - old_logprobs)``; ``delta`` (two-sided clipping) only where it is set.

    Returns:
        The loss, and 0/1 masks ``clip_ratio/low_mean``, ``clip_ratio/high_mean``, ``clip_ratio/region_mean`` of
        clipped tokens, and ``kl`` where there is a reference.

    Source: TRL ``GRPOTrainer._compute_loss``.
    """
    high = config.epsilon if config.epsilon_high is None else config.epsilon_high
    ratio = jnp.exp(jnp.clip(logprobs - old_logprobs, -_MAX_LOG_RATIO, _MAX_LOG_RATIO))
    clipped = jnp.clip(ratio, 1.0 - config.epsilon, 1.0 + high)
    capped = ratio if config.delta is None else jnp.minimum(ratio, config.delta)
    loss = -jnp.minimum(capped * advantages, clipped * advantages)
    low = (ratio < 1.0 - config.epsilon) & (advantages < 0)
    top = (ratio > 1.0 + high) & (advantages > 0)
    told = {"clip_ratio/low_mean": low, "clip_ratio/high_mean": top, "clip_ratio/region_mean": low | top}
    if ref_logprobs is not None:
        told["kl"] = kl_divergence(logprobs, ref_logprobs, config.kl_estimator)
        loss = loss + config.beta * told["kl"]
    return loss, {name: value.astype(jnp.float32) for name, value in told.items()}
