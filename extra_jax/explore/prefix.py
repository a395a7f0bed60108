"""Prefixes of the model's own attempts: scores, smoothing, choice (method/extra.md a.4, b.3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from extra_jax.config import PrefixConfig

_TIE = 1e-9  # nats; scores this close are equal up to rounding


@dataclass(frozen=True, eq=False)
class Prefix:
    """The beginning of an attempt, and what is known about it.

    Attributes:
        tokens: ``[b]`` int32, from the end of the root prompt on; prefixes of one attempt share memory.
        score: nats, mean token entropy (``prefix_scores``).
        vector: ``[E]`` f32 of length 1, or ``None`` where nothing needs it.
        step: in which it was written.
        rollout_id: of the attempt, in that step.
        depth: 1 where it was written from the plain prompt, 2 from a guided one, ...
        fraction: position of the cut in the attempt, of its length.
        correct: whether the attempt was.
        leak: whether the text holds the ground truth already.
    """

    tokens: np.ndarray
    score: float
    vector: np.ndarray | None
    step: int
    rollout_id: int
    depth: int
    fraction: float
    correct: bool
    leak: bool


class Choice(NamedTuple):
    """Attributes:
    index: of the prefix chosen.
    scores: ``[n]`` smoothed scores.
    tied: how many shared the best score.
    """

    index: int
    scores: np.ndarray
    tied: int


def prefix_scores(entropies: np.ndarray, cuts: Sequence[int], config: PrefixConfig) -> np.ndarray:
    """``[len(cuts)]`` f64 nats: mean token entropy of each prefix, or of its last ``window`` tokens.

    Args:
        entropies: ``[L]`` nats, of each completion token's distribution before it was drawn.
        cuts: prefix lengths, 1 to ``L``.
        config: ``score`` and ``window``.
    """
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(entropies, np.float64))])
    ends = np.asarray(cuts, np.int64)
    starts = np.zeros_like(ends) if config.score == "cum_mte" else np.maximum(ends - config.window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def source_rollout(
    entropies: np.ndarray,
    correct: np.ndarray,
    how: Literal["prefer_correct", "correct", "min_mte", "max_mte", "random"],
    rng: np.random.Generator,
) -> int | None:
    """Which attempt of a hard prompt is cut; ``None`` where ``how=correct`` finds none.

    Args:
        entropies: ``[G]`` mean token entropy of each whole attempt.
        correct: ``[G]`` bool.
        how: ``prefer_correct`` takes the lowest entropy among the correct ones where there are any.
        rng: for ``random``.
    """
    if how == "random":
        return int(rng.integers(len(entropies)))
    if how == "max_mte":
        return int(np.argmax(entropies))
    if how == "correct" and not correct.any():
        return None
    if how in ("prefer_correct", "correct") and correct.any():
        entropies = np.where(correct, entropies, np.inf)
    return int(np.argmin(entropies))


def smoothed_scores(
    prefixes: Sequence[Prefix], smoothing: Literal["embedding", "prefix_overlap", "none"], tau: float
) -> np.ndarray:
    """``[n]`` f64: ``sum_j softmax_j(similarity_ij / tau) score_j``, each prefix among its own neighbours.

    Source: method/extra.md a.4-5.
    """
    scores = np.array([prefix.score for prefix in prefixes], np.float64)
    if smoothing == "none":
        return scores
    if smoothing == "embedding":
        vectors = np.stack([prefix.vector for prefix in prefixes])
        similarities = (vectors @ vectors.T).astype(np.float64)
    else:
        similarities = _overlaps([prefix.tokens for prefix in prefixes])
    weights = np.exp((similarities - similarities.max(axis=1, keepdims=True)) / tau)
    return weights @ scores / weights.sum(axis=1)


def choose(
    scores: np.ndarray,
    direction: Literal["low", "high"],
    tie: Literal["random", "first", "longest"],
    lengths: np.ndarray,
    rng: np.random.Generator,
) -> Choice:
    """The best score, and which of those that share it.

    Args:
        scores: ``[n]`` smoothed scores.
        direction: which are good.
        tie: between equal ones.
        lengths: ``[n]`` tokens of each prefix.
        rng: for ``tie=random``.
    """
    cost = scores if direction == "low" else -scores
    best = np.flatnonzero(cost <= cost.min() + _TIE)
    if tie == "first" or len(best) == 1:
        index = best[0]
    else:
        index = best[np.argmax(lengths[best])] if tie == "longest" else rng.choice(best)
    return Choice(int(index), scores, len(best))


def _overlaps(rows: Sequence[np.ndarray]) -> np.ndarray:
    """``[n, n]`` f64: tokens that two prefixes begin with in common, over the length of the longer one."""
    lengths = np.array([len(tokens) for tokens in rows])
    padded = np.full((len(rows), lengths.max()), -1, np.int64)
    for row, tokens in enumerate(rows):
        padded[row, : len(tokens)] = tokens
    shared = np.zeros((len(rows), len(rows)))
    for row in range(len(rows)):
        equal = (padded == padded[row]) & (padded >= 0)
        shared[row] = np.logical_and.accumulate(equal, axis=1).sum(axis=1)
    return shared / np.maximum(lengths[:, None], lengths[None, :])
