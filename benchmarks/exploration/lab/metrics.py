"""Other meanings of distance than that of vectors: words in common, rare words, and what the policy found unlikely.

Source: ``docs/methods/extra.md``, "Controls" (arms L1 to L3), and the authors' release.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from extra_jax.explore import Step, Transform, stateless
from extra_jax.explore.distance import Pool, aggregate, allowed_pool
from extra_jax.explore.door import Report
from extra_jax.explore.packing import pack_texts, split, unpack_texts
from extra_jax.explore.step import Layout

from .lexical import count_novelty, jaccard_similarities, step_codes
from .sizing import paid_like_the_real


def jaccard(*, ngram: int = 2, **settings: Any) -> Transform:
    """L1, a bonus: the order of Jaccard distances with the distribution and the size of the embedding's.

    Args:
        ngram: tokens of an n-gram.
        settings: as of ``novelty``.
    """
    names = ("pool", "pool_filter", "capacity", "remember_guided")
    pool = {name: value for name, value in settings.items() if name in names}
    return paid_like_the_real(jaccard_distance(ngram, **pool), "real_sum", None, settings)


def ngram_count(*, ngram: int = 2, **settings: Any) -> Transform:
    """L2, a bonus: n-grams that earlier correct completions of the problem did not have. Settings as of ``novelty``."""
    return paid_like_the_real(ngram_rarity(ngram), "own", None, settings)


def policy_surprise(*, how: Literal["summed", "per_token"] = "per_token", **settings: Any) -> Transform:
    """L3, a bonus: completions that the policy found unlikely. Settings as of ``novelty``."""
    return paid_like_the_real(likelihood(how), "own", None, settings)


Phrases = list[tuple[np.ndarray, bool]]
"""Of one problem, oldest first: the set of n-grams of a completion, and whether it was correct."""


def jaccard_distance(
    ngram: int = 2,
    *,
    pool: Pool = "both",
    pool_filter: Literal["correct", "all"] = "correct",
    capacity: int | Literal["group"] | None = None,
    remember_guided: bool = True,
) -> Transform:
    """From embedding distances to ``1 - Jaccard`` with the nearest completion, mapped on their quantiles.

    ``ngram``: tokens of an n-gram; the others are those of ``distance``.
    """

    def update(step: Step, values: np.ndarray, state: dict[str, Phrases]) -> tuple[np.ndarray, Any, Report]:
        where, codes, everybody = step.plain, step_codes(step, ngram), pool_filter == "all"
        past = [state.get(uid, []) for uid in where.uids]
        similar = overlaps(where, codes, past)
        remembered = np.zeros((len(past), similar.shape[2] - similar.shape[1]), bool)
        for k, phrases in enumerate(past):
            remembered[k, : len(phrases)] = [correct or everybody for _, correct in phrases]
        siblings = where.present & (where.spread(step.correct) | everybody)
        allowed = allowed_pool(remembered, siblings, pool) & where.present[:, :, None]
        gate, real = where.spread(np.isfinite(values)), where.spread(np.nan_to_num(values))
        mapped = quantile_map(aggregate(similar, allowed, "nn"), real, gate)
        size, later = step.run.group_size, dict(state)
        most = size if capacity == "group" else capacity or max(16, 2 * size)
        for row in np.flatnonzero(np.repeat(~step.guided | remember_guided, size)):
            uid, correct = step.uids[row // size], bool(step.correct.flat[row])
            later[uid] = [*later.get(uid, []), (np.unique(codes[row]), correct)][-most:]
        return where.collect(np.where(gate, mapped, np.nan), size), later, {}

    def save(state: dict[str, Phrases]) -> dict[str, Any]:
        rows = [row for phrases in state.values() for row in phrases]
        return {
            "uids": pack_texts(list(state)),
            "counts": np.array([len(phrases) for phrases in state.values()], np.int64),
            "sizes": np.array([len(own) for own, _ in rows], np.int64),
            "codes": np.concatenate([np.zeros(0, np.int64), *(own for own, _ in rows)]),
            "correct": np.array([correct for _, correct in rows], bool),
        }

    def load(tree: dict[str, Any], run: Any) -> dict[str, Phrases]:
        codes = split(np.asarray(tree["codes"]), tree["sizes"])
        rows = list(zip(codes, np.asarray(tree["correct"], bool).tolist(), strict=True))
        return dict(zip(unpack_texts(tree["uids"]), split(rows, tree["counts"]), strict=True))

    return Transform(lambda run: {}, update, save, load)


def overlaps(where: Layout, codes: Sequence[np.ndarray], past: Sequence[Phrases]) -> np.ndarray:
    """``[K, W, M + W]`` Jaccard similarities with those remembered and with each other; 0 where none is remembered."""
    most, width = max(map(len, past), default=0), where.members.shape[1]
    similar = np.zeros((len(past), width, most + width))
    for k, (phrases, members) in enumerate(zip(past, where.members, strict=True)):
        own, earlier = [np.unique(codes[row]) for row in members], len(phrases)
        pairs = jaccard_similarities(own, [*(each for each, _ in phrases), *own])
        similar[k, :, :earlier], similar[k, :, most:] = pairs[:, :earlier], pairs[:, earlier:]
    return similar


def quantile_map(values: np.ndarray, reference: np.ndarray, gate: np.ndarray) -> np.ndarray:
    """The order of ``values`` with the distribution of ``reference`` over the gated completions of a step.

    Equal values get the mean of the quantiles that they share.
    """
    mapped = values.copy()
    if gate.any():
        _, rank, size = np.unique(values[gate], return_inverse=True, return_counts=True)
        ends = np.cumsum(size)
        total = np.concatenate([[0.0], np.cumsum(np.sort(reference[gate]))])
        mapped[gate] = ((total[ends] - total[ends - size]) / size)[rank]
    return mapped


Counts = dict[str, Counter[int]]


def ngram_rarity(ngram: int = 2) -> Transform:
    """Replaces the values of correct completions of plain prompts by ``count_novelty``; counts correct ones of all."""

    def update(step: Step, values: np.ndarray, state: Counts) -> tuple[np.ndarray, Counts, Report]:
        codes, uids = step_codes(step, ngram), np.repeat(step.uids, step.run.group_size).tolist()
        rare = np.array([count_novelty(own, state.get(uid, Counter())) for uid, own in zip(uids, codes, strict=True)])
        paid = step.correct & ~step.guided[:, None]
        for uid, own, right in zip(uids, codes, step.correct.ravel(), strict=True):
            if right:
                state.setdefault(uid, Counter()).update(own.tolist())
        return np.where(paid, rare.reshape(paid.shape), np.nan), state, {}

    def save(state: Counts) -> dict[str, Any]:
        sizes = np.array([len(counts) for counts in state.values()], np.int64)
        pairs = [pair for counts in state.values() for pair in counts.items()]
        return {"uids": pack_texts(list(state)), "sizes": sizes, "pairs": np.array(pairs, np.int64).reshape(-1, 2)}

    def load(tree: dict[str, Any], run: Any) -> Counts:
        parts = split(np.asarray(tree["pairs"]), tree["sizes"])
        return {uid: Counter(dict(part.tolist())) for uid, part in zip(unpack_texts(tree["uids"]), parts, strict=True)}

    return Transform(lambda run: {}, update, save, load)


def likelihood(how: Literal["summed", "per_token"] = "per_token") -> Transform:
    """Replaces the values by ``surprise``, where a problem has two or more correct completions of plain prompts."""

    def update(step: Step, values: np.ndarray, state: dict) -> tuple[np.ndarray, dict, Report]:
        where = step.plain
        correct = where.spread(step.correct)
        score = surprise(where.spread(step.logprobs), where.spread(step.lengths), correct, how)
        several = correct & (correct.sum(axis=1, keepdims=True) >= 2)
        return where.collect(np.where(several, score, np.nan), step.run.group_size), state, {}

    return stateless(update)


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
    """
    score = -logprobs if how == "summed" else -logprobs / np.maximum(lengths, 1)
    count = correct.sum(axis=1, keepdims=True)
    mean = np.sum(score, axis=1, keepdims=True, where=correct) / np.maximum(count, 1)
    centred = np.where(correct & (count >= 2), score - mean, 0.0)
    std = np.sqrt((centred**2).sum(axis=1, keepdims=True) / np.maximum(count - 1, 1))
    z = centred / (std + 1e-6)
    return np.maximum(z, 0.0) if how == "summed" else z


def group_max() -> Transform:
    """Divides the values by the largest of their problem, correct or not: the release's other scaling.

    It stands between ``distance`` and ``correct_only``; ``standardise(scaling="raw")`` follows.
    """

    def update(step: Step, values: np.ndarray, state: dict) -> tuple[np.ndarray, dict, Report]:
        where = step.plain
        known = where.spread(np.nan_to_num(values))
        largest = np.max(known, axis=1, keepdims=True, initial=0.0)
        divided = np.divide(known, largest, out=np.zeros_like(known), where=largest > 0)
        return (
            where.collect(np.where(where.spread(np.isfinite(values)), divided, np.nan), step.run.group_size),
            state,
            {},
        )

    return stateless(update)
