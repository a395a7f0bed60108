"""Statistics without scipy."""

import numpy as np


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's, ties at their mean rank, six decimals count; NaN below three pairs or where either is constant."""
    a, b = np.round(a, 6), np.round(b, 6)
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def ranks(values: np.ndarray) -> np.ndarray:
    """``[n]`` ranks from 1; equal values share their mean rank."""
    _, index, size = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(size) - (size - 1) / 2.0)[index]
