"""The loss of one batch of tokens, as pure functions.

How an update is averaged is decided once, on the host, by ``sequence_weights`` and ``entropy_weights``: every loss
type is a weight on each token. The loss is then a plain weighted sum, so it cannot depend on how sequences are packed
into rows, rows into micro-batches, or micro-batches spread over devices.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from extra_jax.config import GRPOConfig
from extra_jax.learn.batch import TokenBatch
from extra_jax.parallel.processes import allgather_rows

_MAX_LOG_RATIO = 20.0  # exp() stays finite; a ratio of e^20 is far outside every clip range


class Mean(NamedTuple):
    """A mean in parts, so that parts from different micro-batches add up; ``total / weight`` is taken once."""

    total: jax.Array
    weight: jax.Array


def sequence_weights(
    loss_type: Literal["grpo", "dr_grpo", "dapo", "bnpo", "cispo"], lengths: np.ndarray, max_completion_length: int
) -> np.ndarray:
    """``[R]`` float64: weight of each token of each sequence in the loss of one optimizer update.

    - ``grpo``: mean over sequences of the mean over their tokens.
    - ``dr_grpo``: sum over tokens / (sequences * ``max_completion_length``).
    - ``dapo``, ``cispo``: mean over all tokens of the update.
    - ``bnpo``: as ``dapo`` here; ``batch.micro_batches`` then averages within each micro-batch.

    Args:
        loss_type: TRL's ``GRPOConfig.loss_type``.
        lengths: ``[R]`` tokens in the loss of each sequence of this process; 0 for one that is left out, which
            counts as a sequence all the same.
        max_completion_length: tokens.
    """
    everywhere = allgather_rows(np.asarray(lengths))
    counted = np.asarray(lengths) > 0
    if loss_type == "grpo":
        return counted / np.maximum(lengths, 1) / len(everywhere)
    if loss_type == "dr_grpo":
        return counted / (len(everywhere) * max_completion_length)
    return counted / max(everywhere.sum(), 1)


def entropy_weights(entropies: np.ndarray, mask: np.ndarray, top_entropy_quantile: float) -> np.ndarray:
    """Which tokens the policy gradient and the entropy bonus act on, as weights of a mean over them.

    The entropies are those that the sampler reported, so the choice is made once for all updates of a step and does
    not depend on micro-batches.

    Args:
        entropies: ``[R, C]`` nats, of this process.
        mask: ``[R, C]`` bool; 1 marks a token in the loss.
        top_entropy_quantile: share of tokens to keep, those of highest entropy in the whole update.

    Returns:
        ``[R, C]`` float64, 0 for a token that is left out; all processes together sum to 1.

    Source: "Beyond the 80/20 Rule"; the threshold is that of TRL ``GRPOTrainer.get_high_entropy_mask``.
    """
    everywhere = allgather_rows(np.asarray(entropies, np.float64)[mask])
    if not everywhere.size:
        return np.zeros(mask.shape)
    threshold = np.quantile(everywhere, 1.0 - top_entropy_quantile)
    return (mask & (entropies >= threshold)) / np.sum(everywhere >= threshold)


def kl_divergence(logprobs: jax.Array, ref_logprobs: jax.Array, estimator: Literal["k1", "k2", "k3"]) -> jax.Array:
    """Per-token estimate of KL(policy || reference) from the sampled token (Schulman, "Approximating KL divergence").

    With ``d = log reference - log policy``: k1 is ``-d``, k2 is ``d^2 / 2``, k3 is ``e^d - d - 1``.
    """
    d = _bounded(ref_logprobs - logprobs)
    return {"k1": -d, "k2": 0.5 * d * d, "k3": jnp.exp(d) - d - 1.0}[estimator]


def grpo_loss(
    config: GRPOConfig, batch: TokenBatch, logprobs: jax.Array, entropies: jax.Array
) -> tuple[jax.Array, dict[str, Mean]]:
    """What one micro-batch adds to the loss of the update, and to its metrics.

    ``sum over tokens of weight * (policy * c + beta * rho KL) - entropy_coef * mean entropy``, where ``c`` is the
    correction for the sampler and 0 for tokens that ``top_entropy_quantile`` leaves out. ``rho`` is the importance
    ratio, neither clipped nor capped, or 1 without ``use_bias_correction_kl``: the gradient of ``rho KL`` is that of
    the expected KL under the policy, as the samples are of the old one (DeepSeek-V3.2, arXiv 2512.02556; TRL).

    Args:
        config: of the loss.
        batch: ``[B, T]`` rows; ``old_logprobs`` of ``None`` means that old and new policy are the same.
        logprobs: ``[B, T]`` f32 of the policy; the gradient is taken through them.
        entropies: ``[B, T]`` f32 nats, of the policy.
    """
    mask = batch.mask.astype(jnp.float32)
    old = jax.lax.stop_gradient(logprobs) if batch.old_logprobs is None else batch.old_logprobs
    ratio = importance_ratio(config, batch, logprobs - old)
    losses, clipped = policy_loss(config, batch.advantages, logprobs, ratio)
    once = mask
    if config.importance_sampling_level == "sequence":  # TRL counts the ratio of a sequence once, not once a token
        once = mask / jnp.maximum(_over_sequence(mask, batch.segment_ids), 1.0)
    metrics = {name: Mean(jnp.sum(value * once), jnp.sum(once)) for name, value in clipped.items()}

    def mean(value: jax.Array) -> Mean:
        return Mean(jnp.sum(value * mask), jnp.sum(mask))

    metrics["entropy"] = mean(jax.lax.stop_gradient(entropies))
    difference = old - batch.sampling_logprobs
    metrics["sampling/sampling_logp_difference/mean"] = mean(jnp.abs(difference))
    if config.importance_sampling_correction is not None:
        correction = sampler_correction(config, difference * mask, batch.segment_ids)
        losses = losses * correction
        metrics["sampling/importance_sampling_ratio/mean"] = mean(correction)
    if batch.entropy_weights is not None:
        losses = losses * (batch.entropy_weights > 0)
    if batch.ref_logprobs is not None:
        kl = kl_divergence(logprobs, batch.ref_logprobs, config.kl_estimator)
        if config.use_bias_correction_kl:
            kl = kl * ratio
        losses = losses + config.beta * kl
        metrics["kl"] = mean(kl)
    loss = jnp.sum(losses * batch.weights)
    if config.entropy_coef > 0:
        loss = loss - config.entropy_coef * jnp.sum(batch.entropy_weights * entropies)
    return loss, metrics


def importance_ratio(config: GRPOConfig, batch: TokenBatch, log_ratio: jax.Array) -> jax.Array:
    """``[B, T]``: ``exp(log_ratio)`` of each token, or its geometric mean over the sequence (GSPO, arXiv 2507.18071).

    ``log_ratio [B, T]`` is the log-probability of the policy less that of the old one.
    """
    if config.importance_sampling_level == "sequence":
        mask = batch.mask.astype(jnp.float32)
        lengths = jnp.maximum(_over_sequence(mask, batch.segment_ids), 1.0)
        log_ratio = _over_sequence(log_ratio * mask, batch.segment_ids) / lengths
    return jnp.exp(_bounded(log_ratio))


def policy_loss(
    config: GRPOConfig, advantages: jax.Array, logprobs: jax.Array, ratio: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Surrogate loss of each token, and what was clipped. All arrays ``[B, T]`` f32.

    With ``rho`` of ``importance_ratio``:

    - ``-min(min(rho, delta) A, clip(rho, 1 - epsilon, 1 + epsilon_high) A)``; ``delta`` (two-sided clipping) only where
      it is set;
    - ``cispo``: ``-min(rho, epsilon_high) A logprobs``, where the first factor is a constant to the gradient.

    Returns:
        The loss, and 0/1 masks of clipped tokens: ``clip_ratio/low_mean``, ``clip_ratio/high_mean`` and
        ``clip_ratio/region_mean``, or ``cispo_clip_ratio``.

    Source: TRL ``GRPOTrainer._compute_loss``; CISPO is arXiv 2506.13585.
    """
    high = config.epsilon if config.epsilon_high is None else config.epsilon_high
    if config.loss_type == "cispo":
        loss = -jax.lax.stop_gradient(jnp.minimum(ratio, high)) * advantages * logprobs
        masks = {"cispo_clip_ratio": (ratio > high) & (advantages > 0)}
    else:
        clipped = jnp.clip(ratio, 1.0 - config.epsilon, 1.0 + high)
        capped = ratio if config.delta is None else jnp.minimum(ratio, config.delta)
        loss = -jnp.minimum(capped * advantages, clipped * advantages)
        low = (ratio < 1.0 - config.epsilon) & (advantages < 0)
        top = (ratio > 1.0 + high) & (advantages > 0)
        masks = {"clip_ratio/low_mean": low, "clip_ratio/high_mean": top, "clip_ratio/region_mean": low | top}
    return loss, {name: value.astype(jnp.float32) for name, value in masks.items()}


def sampler_correction(config: GRPOConfig, difference: jax.Array, segment_ids: jax.Array) -> jax.Array:
    """Bounded importance ratio between the learner's old policy and the sampler, a constant to the gradient.

    Args:
        config: of the loss; ``importance_sampling_correction`` is set.
        difference: ``[B, T]`` log-probability of the learner less that of the sampler; 0 outside the loss.
        segment_ids: ``[B, T]``.

    Source: TRL ``vllm_importance_sampling_mode``, ``_clip_max`` and ``_clip_min``; verl ``rollout_correction``.
    """
    assert config.importance_sampling_correction is not None
    level, how = config.importance_sampling_correction.split("_")
    if level == "sequence":
        difference = _over_sequence(difference, segment_ids)
    ratio = jax.lax.stop_gradient(jnp.exp(_bounded(difference)))
    lowest = 0.0 if config.importance_sampling_clip_min is None else config.importance_sampling_clip_min
    highest = jnp.inf if config.importance_sampling_clip_max is None else config.importance_sampling_clip_max
    if how == "truncate":
        return jnp.clip(ratio, lowest, highest)
    return jnp.where((ratio >= lowest) & (ratio <= highest), ratio, 0.0)


def _bounded(log_ratio: jax.Array) -> jax.Array:
    return jnp.clip(log_ratio, -_MAX_LOG_RATIO, _MAX_LOG_RATIO)


def _over_sequence(values: jax.Array, segment_ids: jax.Array) -> jax.Array:
    """``[B, T]``: at every token the sum over its own sequence. A sequence is never split over rows."""

    def row(values: jax.Array, segments: jax.Array) -> jax.Array:
        return jax.ops.segment_sum(values, segments, num_segments=len(values) + 1)[segments]

    return jax.vmap(row)(values, segment_ids)
