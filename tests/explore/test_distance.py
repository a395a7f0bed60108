"""Distances against scipy and against recomputing from scratch; invariances."""

import numpy as np
import pytest
from extra_jax.explore.lexical import jaccard_similarities, ngram_codes
from extra_jax.explore.state import ExplorationState
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from scipy.stats import zscore

from explore.steps import Visit, config_of
from extra_jax.explore.distance import aggregate, allowed_pool, cosine_similarities, distances, normalise, surprise

ALL_PAIRS = {"preset": "corrected", "novelty": {"pool_filter": "all"}}


def case(seed: int, prompts: int = 3, width: int = 5, history: int = 4, size: int = 8) -> tuple:
    rng = np.random.default_rng(seed)
    rows, past = (
        normalise(rng.normal(size=(prompts, width, size))),
        normalise(rng.normal(size=(prompts, history, size))),
    )
    remembered, siblings = rng.random((prompts, history)) < 0.6, rng.random((prompts, width)) < 0.7
    return rows, past, remembered, siblings


@pytest.mark.parametrize("pool", ["siblings", "history", "both"])
@pytest.mark.parametrize("how", ["nn", "knn", "mean"])
def test_distances_are_those_of_scipy(pool, how):
    rows, past, remembered, siblings = case(0)
    allowed = allowed_pool(remembered, siblings, pool=pool)
    found = distances(cosine_similarities(rows, past), allowed, how, k=2)
    for k in range(len(rows)):
        apart = cdist(rows[k], np.concatenate([past[k], rows[k]]), "cosine")
        for w in range(rows.shape[1]):
            others = [apart[w, j] for j in range(4) if remembered[k, j] and pool != "siblings"]
            others += [apart[w, 4 + j] for j in range(5) if siblings[k, j] and j != w and pool != "history"]
            others = np.sort(others)
            expected = {"nn": others[:1], "knn": others[:2], "mean": others}[how]
            assert found.values[k, w] == pytest.approx(expected.mean() if len(others) else 0.0, abs=1e-6)
            if how == "nn" and len(others):
                assert apart[w, found.nearest[k, w]] == pytest.approx(others[0], abs=1e-6)


@pytest.mark.parametrize("how", ["nn", "knn", "mean"])
def test_leaving_one_out_is_sampling_without_it(how):
    rows, past, remembered, siblings = case(1)
    similar = cosine_similarities(rows, past)
    found = distances(similar, allowed_pool(remembered, siblings, pool="both"), how, leave_one_out=True)
    for i in range(rows.shape[1]):
        fewer = siblings.copy()
        fewer[:, i] = False
        again = distances(similar, allowed_pool(remembered, fewer, pool="both"), how)
        np.testing.assert_allclose(found.without[:, i], again.values, atol=1e-12)


def test_an_empty_pool_gives_zero_and_no_neighbour():
    rows, past, remembered, siblings = case(2)
    allowed = allowed_pool(remembered & False, siblings & False, pool="both")
    found = distances(cosine_similarities(rows, past), allowed)
    assert (found.values == 0).all()
    assert (found.nearest == -1).all()
    assert (aggregate(np.zeros((1, 1, 0)), np.zeros((1, 1, 0), bool), "mean") == 0).all()


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_the_novelty_of_duplicates_is_zero_and_permuting_rollouts_permutes_it(seed):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(12, 4))
    vectors[1], vectors[7] = vectors[0], vectors[9]
    correct = np.ones(12, bool)
    config = config_of(ALL_PAIRS, num_generations=6)
    plain = Visit(config, ExplorationState(), vectors, correct, 6).distances.ravel()
    assert plain[[0, 1, 7, 9]] == pytest.approx(0.0, abs=3e-7)  # f32
    order = np.concatenate([rng.permutation(6), 6 + rng.permutation(6)])
    permuted = Visit(config, ExplorationState(), vectors[order], correct, 6).distances.ravel()
    np.testing.assert_allclose(permuted, plain[order], atol=1e-7)


def test_completions_of_a_problem_that_comes_twice_are_siblings():
    vectors = np.random.default_rng(0).normal(size=(8, 4))
    vectors[5] = vectors[0]
    config = config_of(ALL_PAIRS, num_generations=4)
    found = Visit(config, ExplorationState(), vectors, np.ones(8, bool), 4, uids=["a", "a"]).measured
    assert found.real.values.shape == (1, 8)
    assert found.real.values[0, [0, 5]] == pytest.approx(0.0, abs=3e-7)


def test_history_counts_from_the_second_visit_and_forgets_beyond_its_capacity():
    config = config_of({"preset": "corrected", "novelty": {"pool": "history", "capacity": 4}}, num_generations=4)
    state, vectors = ExplorationState(), np.eye(8)
    first = Visit(config, state, vectors[:4], np.ones(4, bool), 4, step=0).run(np.ones((1, 4)))
    assert not first.measured.defined.any()
    again = Visit(config, state, vectors[:4], np.ones(4, bool), 4, step=1)
    assert again.distances[0] == pytest.approx(0.0)
    assert again.measured.nearest[0].tolist() == [[0, 0], [0, 1], [0, 2], [0, 3]]
    Visit(config, state, vectors[4:], np.ones(4, bool), 4, step=2).run(np.ones((1, 4)))
    forgotten = Visit(config, state, vectors[:4], np.ones(4, bool), 4, step=3)
    assert forgotten.distances[0] == pytest.approx(1.0)


def test_the_pool_filter_hides_wrong_completions():
    vectors = np.array([[1.0, 0], [1, 0.01], [0, 1], [1, 0.02]])
    correct = np.array([True, False, True, False])
    filtered = Visit(config_of({"preset": "corrected"}, num_generations=4), ExplorationState(), vectors, correct, 4)
    assert filtered.distances[0, 0] == pytest.approx(1.0), "its near twin is wrong and does not count"
    everybody = Visit(config_of(ALL_PAIRS, num_generations=4), ExplorationState(), vectors, correct, 4)
    assert everybody.distances[0, 0] == pytest.approx(0.0, abs=1e-4)


@given(st.lists(st.lists(st.integers(0, 5), max_size=12), min_size=2, max_size=6), st.integers(1, 3))
@settings(max_examples=50, deadline=None)
def test_jaccard_is_that_of_python_sets(texts, n):
    def grams(text: list[int]) -> set:
        return {tuple(text[i : i + n]) for i in range(len(text) - n + 1)}

    sets = [np.unique(ngram_codes(np.array(text), n)) for text in texts]
    found = jaccard_similarities(sets[:1], sets)
    for j, text in enumerate(texts):
        a, b = grams(texts[0]), grams(text)
        assert found[0, j] == pytest.approx(len(a & b) / len(a | b) if a | b else 1.0)


def test_surprise_per_token_is_scipys_zscore_and_does_not_grow_with_length():
    logprobs, lengths = np.array([[-10.0, -40.0, -90.0, -5.0]]), np.array([[10.0, 20, 30, 1]])
    correct = np.array([[True, True, True, False]])
    found = surprise(logprobs, lengths, correct, "per_token")[0]
    assert found[:3] == pytest.approx(zscore([1.0, 2.0, 3.0], ddof=1), abs=1e-5)
    assert found[3] == 0.0
    alone = surprise(logprobs, lengths, np.array([[True, False, False, False]]), "per_token")
    assert (alone == 0).all()
