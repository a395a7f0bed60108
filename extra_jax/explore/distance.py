"""Distances of completions from their siblings and from what was written before.

Completions of one problem stand in one row: arrays are ``[K, W]`` over ``K`` problems and at most ``W`` completions of
each in this step, filled up where a problem has fewer. A pool has ``M`` remembered completions first, then the ``W``
siblings. Source: ``docs/methods/extra.md``.
"""

from typing import Literal

import numpy as np

Aggregate = Literal["nn", "knn", "mean"]
Pool = Literal["siblings", "history", "both"]


def normalise(vectors: np.ndarray) -> np.ndarray:
    """f32 vectors ``[..., E]`` of length 1; a zero vector stays zero."""
    vectors = np.asarray(vectors, np.float32)
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(norms, np.float32(1e-12))


def cosine_similarities(rows: np.ndarray, history: np.ndarray) -> np.ndarray:
    """``[K, W, M + W]`` f64 cosines of unit vectors ``rows [K, W, E]`` with ``history [K, M, E]`` and each other."""
    pool = np.concatenate([history, rows], axis=1)
    return np.matmul(rows, pool.transpose(0, 2, 1)).astype(np.float64)


def allowed_pool(remembered: np.ndarray, siblings: np.ndarray, pool: Pool) -> np.ndarray:
    """``[K, W, M + W]`` bool; 1 marks whom a completion is compared with: never itself.

    Args:
        remembered: ``[K, M]`` bool, remembered completions that count.
        siblings: ``[K, W]`` bool, completions of this step that count.
        pool: which of the two are looked at.
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


def nearest(similarities: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """``[K, W]`` index into the pool of the most similar one; -1 where nobody is allowed."""
    index = np.argmax(np.where(allowed, similarities, -np.inf), axis=-1)
    return np.where(allowed.any(axis=-1), index, -1)
