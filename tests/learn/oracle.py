"""Slow float64 versions, one token at a time, written from the formulas and not from our code."""

import itertools
import math

import numpy as np

LOSS_TYPES = ("grpo", "dr_grpo", "dapo", "bnpo")


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
        }[loss_type]
        total += share * losses[row, column]
    return total


def token_loss(
    new: float,
    old: float,
    advantage: float,
    ref: float | None,
    *,
    epsilon: float,
    epsilon_high: float | None,
    delta: float | None,
    beta: float,
    kl_estimator: str,
) -> float:
    """Clipped surrogate of one token, with KL."""
    high = epsilon if epsilon_high is None else epsilon_high
    ratio = math.exp(new - old)
    free = ratio if delta is None or ratio < delta else delta
    clipped = 1 - epsilon if ratio < 1 - epsilon else 1 + high if ratio > 1 + high else ratio
    loss = -min(free * advantage, clipped * advantage)
    if ref is None:
        return loss
    r = math.exp(ref - new)  # reference over policy
    return loss + beta * {"k1": -math.log(r), "k2": math.log(r) ** 2 / 2, "k3": r - 1 - math.log(r)}[kl_estimator]


def policy_loss(new, old, advantage, ref, **settings) -> np.ndarray:
    """``token_loss`` of arrays."""
    out = np.zeros(new.shape)
    for at in np.ndindex(*new.shape):
        out[at] = token_loss(new[at], old[at], advantage[at], None if ref is None else ref[at], **settings)
    return out
