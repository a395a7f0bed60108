"""Slow float64 versions, one token at a time, written from the formulas and not from our code."""

import itertools
import math

import numpy as np

from extra_jax.config import GRPOConfig

LOSS_TYPES = ("grpo", "dr_grpo", "dapo", "bnpo", "cispo")


def advantages(rewards: np.ndarray, valid: np.ndarray, scale_rewards: str) -> np.ndarray:
    """TRL's group advantages with rows that do not count left out; sample std, ``+ 1e-4``."""
    every = [r for row, ok in zip(rewards, valid, strict=True) for r, v in zip(row, ok, strict=True) if v]
    out = np.zeros(rewards.shape)
    for group, (row, ok) in enumerate(zip(rewards, valid, strict=True)):
        members = [float(r) for r, v in zip(row, ok, strict=True) if v]
        if len(members) < 2:
            continue
        mean = math.fsum(members) / len(members)
        scale = {"none": None, "group": members, "batch": every}[scale_rewards]
        for i, v in enumerate(ok):
            if v:
                out[group, i] = row[i] - mean
                if scale is not None:
                    out[group, i] /= _sample_std(scale) + 1e-4
    return out


def _sample_std(values: list[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))


def aggregate(loss_type: str, losses: np.ndarray, mask: np.ndarray, max_completion_length: int) -> float:
    """One number from token losses ``[R, C]``; ``mask`` 1 marks a token in the loss."""
    rows = len(losses)
    total = 0.0
    for row, column in itertools.product(range(rows), range(losses.shape[1])):
        if not mask[row, column]:
            continue
        share = {
            "grpo": 1 / mask[row].sum() / rows,
            "dr_grpo": 1 / (rows * max_completion_length),
            "dapo": 1 / mask.sum(),
            "bnpo": 1 / mask.sum(),
            "cispo": 1 / mask.sum(),
        }[loss_type]
        total += share * losses[row, column]
    return total


def kl(new: float, ref: float, estimator: str) -> float:
    """Of one token, from its log-probabilities under policy and reference."""
    r = math.exp(ref - new)
    return {"k1": -math.log(r), "k2": math.log(r) ** 2 / 2, "k3": r - 1 - math.log(r)}[estimator]


def correction(
    learner: np.ndarray, sampler: np.ndarray, how: str, low: float | None, high: float | None
) -> list[float]:
    """Bounded ratio between learner and sampler of each token of one sequence."""
    gaps = [float(a - b) for a, b in zip(learner, sampler, strict=True)]
    if how.startswith("sequence"):
        gaps = [math.fsum(gaps)] * len(gaps)
    out = []
    for ratio in map(math.exp, gaps):
        below, above = low is not None and ratio < low, high is not None and ratio > high
        if how.endswith("mask"):
            out.append(0.0 if below or above else ratio)
        else:
            out.append(low if below else high if above else ratio)
    return out


def chosen_by_entropy(entropies: np.ndarray, mask: np.ndarray, share: float) -> np.ndarray:
    """1 marks the tokens at or above the ``1 - share`` quantile (linear between ranks) of those in the loss."""
    ranked = sorted(entropies[mask].tolist())
    at = (1 - share) * (len(ranked) - 1)
    lower = math.floor(at)
    upper = min(lower + 1, len(ranked) - 1)
    threshold = ranked[lower] + (at - lower) * (ranked[upper] - ranked[lower])
    return mask & (entropies >= threshold)


def update_loss(config: GRPOConfig, cap: int, data: dict[str, np.ndarray], frozen: np.ndarray) -> float:
    """Loss of a whole update, one sequence after the other.

    Args:
        config: of the loss.
        cap: ``max_completion_length``.
        data: ``[R, C]`` float64 ``new, old, advantage, sampler, entropy, policy_entropy`` and, with KL, ``ref``;
            ``mask`` is 1 for tokens in the loss.
        frozen: ``new`` where the gradient does not look at it (CISPO).
    """
    mask = data["mask"]
    kept = chosen_by_entropy(data["entropy"], mask, config.top_entropy_quantile)
    losses = np.zeros(mask.shape)
    for row in range(len(mask)):
        tokens = np.flatnonzero(mask[row])
        gaps = {name: [float(x[row, t] - data["old"][row, t]) for t in tokens] for name, x in
                (("new", data["new"]), ("frozen", frozen))}  # fmt: skip
        if config.importance_sampling_level == "sequence" and len(tokens):
            gaps = {name: [math.fsum(values) / len(values)] * len(values) for name, values in gaps.items()}
        trust = [1.0] * len(tokens)
        if config.importance_sampling_correction:
            trust = correction(
                data["old"][row, tokens], data["sampler"][row, tokens], config.importance_sampling_correction,
                config.importance_sampling_clip_min, config.importance_sampling_clip_max,
            )  # fmt: skip
        for t, gap, frozen_gap, factor in zip(tokens, gaps["new"], gaps["frozen"], trust, strict=True):
            advantage, new = data["advantage"][row, t], data["new"][row, t]
            if config.loss_type == "cispo":
                loss = -min(math.exp(frozen_gap), config.epsilon_high) * advantage * new
            else:
                loss = surrogate(math.exp(gap), advantage, config)
            losses[row, t] = loss * factor * kept[row, t]
            if config.beta:
                ratio = math.exp(gap) if config.use_bias_correction_kl else 1.0
                losses[row, t] += config.beta * ratio * kl(new, data["ref"][row, t], config.kl_estimator)
    bonus = sum(data["policy_entropy"][kept]) / max(kept.sum(), 1)
    return aggregate(config.loss_type, losses, mask, cap) - config.entropy_coef * bonus


def surrogate(ratio: float, advantage: float, config: GRPOConfig) -> float:
    """Clipped surrogate of one ratio."""
    low, high = 1 - config.epsilon, 1 + (config.epsilon if config.epsilon_high is None else config.epsilon_high)
    free = ratio if config.delta is None or ratio < config.delta else config.delta
    clipped = low if ratio < low else high if ratio > high else ratio
    return -min(free * advantage, clipped * advantage)
