"""Diversity of a group's completions, against sets and pairs written out by hand."""

from itertools import combinations, pairwise

import numpy as np
import pytest

from benchmarks.exploration.lab.lexical import diversity, ngram_codes

GROUP = 4


def by_hand(texts: list[list[int]], correct: np.ndarray, plain: np.ndarray) -> tuple[list, list, list]:
    distinct, different, distances = [], [], []
    for k in range(len(plain)):
        if not plain[k]:
            continue
        pairs = [list(pairwise(t)) for t in texts[GROUP * k : GROUP * (k + 1)]]
        whole = [pair for row in pairs for pair in row]
        distinct.append(len(set(whole)) / len(whole))
        right = [row for row, ok in zip(pairs, correct[k], strict=True) if ok]
        if right:
            different.append(len(set(map(tuple, right))))
        if len(right) > 1:
            each = [1 - len(set(a) & set(b)) / len(set(a) | set(b)) for a, b in combinations(right, 2)]
            distances.append(np.mean(each))
    return distinct, different, distances


def test_diversity_is_that_of_sets_and_pairs():
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, 3, rng.integers(3, 6)).tolist() for _ in range(40 * GROUP)]  # repeats are frequent
    correct, plain = rng.random((40, GROUP)) < 0.5, rng.random(40) < 0.8
    found = diversity([ngram_codes(np.array(t), 2) for t in texts], correct, plain)
    distinct, different, distances = by_hand(texts, correct, plain)
    assert found["distinct_ngrams"] == pytest.approx(np.mean(distinct))
    assert found["distinct_correct"] == pytest.approx(np.mean(different))
    assert found["pair_distance_correct"] == pytest.approx(np.mean(distances))


def test_without_correct_completions_there_is_nothing_to_average():
    codes = [np.arange(3)] * GROUP
    found = diversity(codes, np.zeros((1, GROUP), bool), np.ones(1, bool))
    assert found["distinct_ngrams"] == pytest.approx(1 / GROUP)
    assert np.isnan([found["distinct_correct"], found["pair_distance_correct"]]).all()
