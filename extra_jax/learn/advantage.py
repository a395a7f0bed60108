"""Rewards -> advantages, on the host, in float64."""

from collections.abc import Callable
from typing import Literal

import jax
import numpy as np

from extra_jax.config import Config
from extra_jax.parallel.processes import allgather, allgather_rows
from extra_jax.reward.scores import Scores
from extra_jax.rollout.types import Rollouts


def make_advantage(config: Config) -> Callable[[Scores, Rollouts], np.ndarray]:
    """The estimator of a run: scores of this process's completions -> ``[R]`` f64; all processes call it together."""
    group, scale, epsilon = config.train.num_generations, config.train.scale_rewards, config.explore.std_epsilon

    def advantage(scores: Scores, rollouts: Rollouts) -> np.ndarray:
        groups = [allgather_rows(x).reshape(-1, group) for x in (scores.rewards, scores.valid)]
        everywhere = group_advantages(*groups, scale, epsilon).ravel()
        before = int(allgather(np.array([len(scores.rewards)]))[: jax.process_index()].sum())
        return everywhere[before : before + len(scores.rewards)]

    return advantage


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
