"""N-grams of tokens: the lexical side of novelty, and the release's count bonus."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

_BITS = 21  # of a token id, so that three fit an int64


def ngram_codes(tokens: np.ndarray, n: int) -> np.ndarray:
    """``[L - n + 1]`` int64, one exact code per n-gram in order; empty where the text is shorter than ``n``.

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

    Source: release, ``ngram_count`` (method/extra.md a.3).
    """
    if not len(codes):
        return 0.0
    seen = np.array([counts[code] for code in codes.tolist()], np.float64)
    return float(np.mean(1.0 / np.sqrt(seen + 1.0)))
