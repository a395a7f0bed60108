"""Distances of completions from their siblings and from what was written before (method/extra.md a.3, b.2).

Completions of one problem stand in one row: arrays are ``[K, W]`` over ``K`` problems and at most ``W`` completions of
each in this step, filled up where a problem has fewer. A pool has ``M`` remembered completions first, then the ``W``
siblings.
"""

from typing import Literal, NamedTuple

import numpy as np

Aggregate = Literal["nn", "knn", "mean"]


class Distances(NamedTuple):
    """Attributes:
    values: ``[K, W]`` f64; 0 where the pool is empty.
    nearest: ``[K, W]`` index into the pool ``[M + W]``; -1 where it is empty.
    without: ``[K, W, W]``: ``[k, i, j]`` is the distance of ``j`` had ``i`` not been sampled, or ``None``.
    undefined: ``[K, W, W]`` bool, or ``None``: 1 where ``without`` has no pool left.
    """

    values: np.ndarray
    nearest: np.ndarray
    without: np.ndarray | None = None
    undefined: np.ndarray | None = None


def cosine_similarities(rows: np.ndarray, history: np.ndarray) -> np.ndarray:
    """``[K, W, M + W]`` f64 cosines of unit vectors ``rows [K, W, E]`` with ``history [K, M, E]`` and each other."""
    pool = np.concatenate([history, rows], axis=1)
    return np.matmul(rows, pool.transpose(0, 2, 1)).astype(np.float64)


def normalise(vectors: np.ndarray) -> np.ndarray:
    """f32 vectors ``[..., E]`` of length 1; a zero vector stays zero."""
    vectors = np.asarray(vectors, np.float32)
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(norms, np.float32(1e-12))


def allowed_pool(
    remembered: np.ndarray,
    siblings: np.ndarray,
    *,
    pool: Literal["siblings", "history", "both"],
) -> np.ndarray:
    """``[K, W, M + W]`` bool; 1 marks whom a completion is compared with: never itself.

    Args:
        remembered: ``[K, M]`` bool, remembered completions that pass the filter.
        siblings: ``[K, W]`` bool, completions of this step that pass the filter.
        pool: which of the two count.
    """
    count, width = siblings.shape
    others = siblings[:, None, :] & ~np.eye(width, dtype=bool)
    earlier = np.broadcast_to(remembered[:, None, :], (count, width, remembered.shape[1]))
    return np.concatenate([earlier & (pool != "siblings"), others & (pool != "history")], axis=2)


def aggregate(similarities: np.ndarray, allowed: np.ndarray, how: Aggregate, k: int = 3) -> np.ndarray:
    """``max(0, 1 - similarity)`` with the pool on the last axis; 0 where nothing is allowed.

    ``nn`` takes the most similar one, ``knn`` the mean over the ``k`` most similar (fewer where there are fewer),
    ``mean`` the mean over all.
    """
    count = allowed.sum(axis=-1)
    if how == "nn":
        similar = np.max(similarities, axis=-1, where=allowed, initial=-np.inf)
    elif how == "mean":
        similar = np.sum(similarities, axis=-1, where=allowed) / np.maximum(count, 1)
    else:
        ranked = -np.sort(np.where(allowed, -similarities, np.inf), axis=-1)[..., :k]
        similar = np.sum(ranked, axis=-1, where=np.isfinite(ranked)) / np.clip(count, 1, k)
    return np.where(count > 0, np.maximum(0.0, 1.0 - np.where(count > 0, similar, 0.0)), 0.0)


def distances(
    similarities: np.ndarray, allowed: np.ndarray, how: Aggregate = "nn", k: int = 3, *, leave_one_out: bool = False
) -> Distances:
    """Distance of each completion from its pool.

    Args:
        similarities: ``[K, W, M + W]``.
        allowed: ``[K, W, M + W]`` bool.
        how: see ``aggregate``.
        k: neighbours of ``knn``.
        leave_one_out: also compute the distances with each sibling taken out (for ``loo_exact`` and ``loo_all``).
    """
    nearest = np.argmax(np.where(allowed, similarities, -np.inf), axis=-1)
    nearest = np.where(allowed.any(axis=-1), nearest, -1)
    values = aggregate(similarities, allowed, how, k)
    if not leave_one_out:
        return Distances(values, nearest)
    width = similarities.shape[1]
    kept = np.ones((width, similarities.shape[2]), bool)
    kept[np.arange(width), np.arange(-width, 0)] = False  # row i: everybody but sibling i
    remaining = allowed[:, None] & kept[None, :, None, :]  # [K, i, j, pool]
    without = aggregate(np.broadcast_to(similarities[:, None], remaining.shape), remaining, how, k)
    return Distances(values, nearest, without, ~remaining.any(axis=-1))


def surprise(
    logprobs: np.ndarray, lengths: np.ndarray, correct: np.ndarray, how: Literal["summed", "per_token"]
) -> np.ndarray:
    """``[K, W]`` z-score of the negative log-likelihood among the correct completions of a problem, at least two.

    Args:
        logprobs: ``[K, W]`` summed over tokens.
        lengths: ``[K, W]`` tokens.
        correct: ``[K, W]`` bool.
        how: ``summed`` is the release's: of whole completions, clamped at 0. ``per_token`` divides by the length first
            and keeps the sign.

    Source: method/extra.md a.3 (policy_surprise), c.1 L3.
    """
    score = -logprobs if how == "summed" else -logprobs / np.maximum(lengths, 1)
    count = correct.sum(axis=1, keepdims=True)
    mean = np.sum(score, axis=1, keepdims=True, where=correct) / np.maximum(count, 1)
    centred = np.where(correct & (count >= 2), score - mean, 0.0)
    std = np.sqrt((centred**2).sum(axis=1, keepdims=True) / np.maximum(count - 1, 1))
    z = centred / (std + 1e-6)
    return np.maximum(z, 0.0) if how == "summed" else z
