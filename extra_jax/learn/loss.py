"""The loss of one batch of tokens, as pure functions.

How a batch is averaged is decided once, by ``token_weights``: every loss type is a weight on each token,
computed over the whole optimizer update. The loss is then a plain weighted sum, so it cannot depend on
how rows are split into micro-batches or over devices.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from extra_jax.config import GRPOConfig

_MAX_LOG_RATIO = 20.0  # exp() stays finite; a ratio of e^20 is far outside every clip range


class Mean(NamedTuple):
    """A mean in parts, so that parts from different micro-batches add up; ``total / weight`` is taken once."""

    total: jax.Array
    weight: jax.Array


def token_weights(
    loss_type: Literal["grpo", "dr_grpo", "dapo", "bnpo"],
    completion_mask: jax.Array,
    *,
    max_completion_length: int,
    micro_batches: int = 1,
) -> jax.Array:
    """Weight of each token in the loss of one optimizer update, ``[B, T]`` f32.

    - ``grpo``: mean over sequences of the mean over tokens.
    - ``dr_grpo``: sum over tokens / (sequences * ``max_completion_length``).
    - ``dapo``: mean over all tokens of the update.
    - ``bnpo``: mean over micro-batches of the mean over their tokens, so it depends on the split by definition.

    Args:
        loss_type: TRL's ``GRPOConfig.loss_type``.
        completion_mask: ``[B, T]`` bool; 1 marks a token in the loss; one sequence a row.
        max_completion_length: tokens.
        micro_batches: number of micro-batches; row ``i`` belongs to micro-batch ``i % micro_batches``.
    """
    mask = completion_mask.astype(jnp.float32)
    rows = mask.shape[0]
    if loss_type == "grpo":
        return mask / jnp.maximum(mask.sum(axis=1, keepdims=True), 1.0) / rows
    if loss_type == "dr_grpo":
        return mask / (rows * max_completion_length)
    if loss_type == "dapo":
        return mask / jnp.maximum(mask.sum(), 1.0)
    split = mask.reshape(rows // micro_batches, micro_batches, -1)
    tokens = split.sum(axis=(0, 2), keepdims=True)
    return (split / jnp.maximum(tokens, 1.0) / micro_batches).reshape(mask.shape)


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
