"""Rewards -> advantages, on the host, in float64."""

from typing import Literal

import numpy as np


def group_advantages(
    rewards: np.ndarray,
    valid: np.ndarray,
    scale_rewards: Literal["group", "batch", "none"] = "group",
    epsilon: float = 1e-4,
) -> np.ndarray:
    """Group-relative advantages of GRPO: ``(r - mean of the group) / (std + epsilon)``.

    Args:
        rewards: ``[P, G]``, one row a group.
        valid: ``[P, G]`` bool; 1 marks a reward that says something about the policy. The others (a grader that
            failed) stay out of mean and std and get advantage 0.
        scale_rewards: ``group`` divides by the sample std (ddof 1) of the group; ``batch`` by that of all valid
            rewards; ``none`` does not divide (Dr. GRPO).
        epsilon: added to the standard deviation; TRL's by default.

    Returns:
        ``[P, G]`` float64. A group with fewer than two valid rewards gets zeros.

    Source: DeepSeekMath eq. 3; TRL ``GRPOTrainer`` (``scale_rewards``), ``None`` rewards excluded likewise.
    """
    rewards, valid = np.asarray(rewards, np.float64), np.asarray(valid, bool)
    count = valid.sum(axis=1, keepdims=True)
    lowest = np.min(rewards, axis=1, keepdims=True, where=valid, initial=np.inf)
    above = np.where(valid, rewards - lowest, 0.0)  # exact zeros for equal rewards, whose mean may round elsewhere
    mean = above.sum(axis=1, keepdims=True) / np.maximum(count, 1)
    centred = np.where(valid & (count >= 2), above - mean, 0.0)
    if scale_rewards == "none":
        return centred
    if scale_rewards == "group":
        std = np.sqrt((centred**2).sum(axis=1, keepdims=True) / np.maximum(count - 1, 1))
    else:
        std = np.std(rewards[valid], ddof=1) if valid.sum() > 1 else 0.0
    return centred / (std + epsilon)
