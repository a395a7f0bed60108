"""How different the completions of a group are, whatever the bonus is made of (method/extra.md d, diversity)."""

from collections.abc import Sequence

import numpy as np

from extra_jax.explore.lexical import jaccard_similarities


def diversity_metrics(codes: Sequence[np.ndarray], correct: np.ndarray, plain: np.ndarray) -> dict[str, float]:
    """Means over the plain groups of a step; a group without (two) correct completions is left out where they count.

    ``distinct_ngrams``: different n-grams over all n-grams of a group, wrong completions included.
    ``distinct_correct``: different correct completions, by their n-grams in order. ``pair_distance_correct``: mean
    ``1 - Jaccard`` of n-gram sets over pairs of correct completions. A mean over nothing is NaN.

    Args:
        codes: ``N`` arrays of n-grams in order, group after group.
        correct: ``[K, G]`` bool.
        plain: ``[K]`` bool, 0 for guided groups, whose completions share a beginning.
    """
    size = correct.shape[1]
    distinct, different, distances = [], [], []
    for k in np.flatnonzero(plain):
        group = codes[k * size : (k + 1) * size]
        everything = np.concatenate(group)
        if len(everything):
            distinct.append(len(np.unique(everything)) / len(everything))
        right = [row for row, ok in zip(group, correct[k], strict=True) if ok]
        if right:
            different.append(len({row.tobytes() for row in right}))
        if len(right) > 1:
            sets = [np.unique(row) for row in right]
            similar = jaccard_similarities(sets, sets)
            distances.append(1.0 - float(similar[np.triu_indices(len(sets), 1)].mean()))
    found = {"distinct_ngrams": distinct, "distinct_correct": different, "pair_distance_correct": distances}
    return {name: float(np.mean(values)) if values else float("nan") for name, values in found.items()}
