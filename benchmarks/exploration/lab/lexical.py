"""N-grams of tokens: the lexical side of novelty, and the release's count bonus."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from extra_jax.explore.encoders import SPAN_TOKENS
from extra_jax.explore.step import Step

_BITS = 21  # of a token id, so that three fit an int64


def step_codes(step: Step, n: int = 2) -> list[np.ndarray]:
    """``[N]`` the n-grams of every completion's last 512 tokens, in order. All processes call it together."""
    rows = range(len(step.rollouts))
    return step.gather([ngram_codes(step.rollouts.completion_ids(row)[-SPAN_TOKENS:], n) for row in rows])


def ngram_codes(tokens: np.ndarray, n: int) -> np.ndarray:
    """``[L - n + 1]`` int64, one exact code for each n-gram in order; empty where the text is shorter than ``n``.

    Args:
        tokens: ``[L]`` token ids below 2**21.
        n: 1 to 3.
    """
    tokens = np.asarray(tokens, np.int64)
    count = len(tokens) - n + 1
    if count <= 0:
        return np.zeros(0, np.int64)
    codes = np.zeros(count, np.int64)
    for offset in range(n):
        codes = (codes << _BITS) | tokens[offset : offset + count]
    return codes


def jaccard_similarities(rows: Sequence[np.ndarray], pool: Sequence[np.ndarray]) -> np.ndarray:
    """``[len(rows), len(pool)]`` f64 Jaccard similarities ``|A & B| / |A | B|`` of sets; two empty sets are equal.

    Args:
        rows: arrays of distinct codes.
        pool: likewise.
    """
    sets = [*rows, *pool]
    codes, index = np.unique(np.concatenate(sets), return_inverse=True) if sets else (np.zeros(0), np.zeros(0))
    present = np.zeros((len(sets), len(codes)), np.float32)  # exact: counts stay far below 2**24
    present[np.repeat(np.arange(len(sets)), [len(s) for s in sets]), index] = 1.0
    both = (present[: len(rows)] @ present[len(rows) :].T).astype(np.float64)
    sizes = present.sum(axis=1, dtype=np.float64)
    either = sizes[: len(rows), None] + sizes[None, len(rows) :] - both
    return np.where(either > 0, both / np.maximum(either, 1), 1.0)


def count_novelty(codes: np.ndarray, counts: Counter[int]) -> float:
    """Mean of ``1 / sqrt(N + 1)`` over the n-grams of one completion; 0 where there is none.

    Args:
        codes: n-grams in order, repeats included.
        counts: how often each occurred in earlier correct completions of the problem.

    Source: ``ngram_count`` of the authors' release.
    """
    if not len(codes):
        return 0.0
    seen = np.array([counts[code] for code in codes.tolist()], np.float64)
    return float(np.mean(1.0 / np.sqrt(seen + 1.0)))


def diversity(codes: Sequence[np.ndarray], correct: np.ndarray, plain: np.ndarray) -> dict[str, float]:
    """Means over the plain groups of a step; a group without (two) correct completions is left out where they count.

    ``distinct_ngrams``: different n-grams over all n-grams of a group, wrong completions included.
    ``distinct_correct``: different correct completions, by their n-grams in order. ``pair_distance_correct``: mean
    ``1 - Jaccard`` of n-gram sets over pairs of correct completions. A mean over nothing is NaN.

    Args:
        codes: ``N`` arrays of n-grams in order, group after group.
        correct: ``[P, G]`` bool.
        plain: ``[P]`` bool, 0 for guided groups, whose completions share a beginning.
    """
    size = correct.shape[1]
    distinct, different, distances = [], [], []
    for index in np.flatnonzero(plain):
        group = codes[index * size : (index + 1) * size]
        everything = np.concatenate(group)
        if len(everything):
            distinct.append(len(np.unique(everything)) / len(everything))
        right = [row for row, ok in zip(group, correct[index], strict=True) if ok]
        if right:
            different.append(len({row.tobytes() for row in right}))
        if len(right) > 1:
            sets = [np.unique(row) for row in right]
            similar = jaccard_similarities(sets, sets)
            distances.append(1.0 - float(similar[np.triu_indices(len(sets), 1)].mean()))
    values = {"distinct_ngrams": distinct, "distinct_correct": different, "pair_distance_correct": distances}
    return {name: float(np.mean(each)) if each else float("nan") for name, each in values.items()}
