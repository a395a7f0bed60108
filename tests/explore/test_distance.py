"""Distances against scipy and against recomputing from scratch; who is compared with whom, and what is remembered."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from explore.steps import Lived, asked, guided, step_with, waiting
from extra_jax.explore import distance
from extra_jax.explore.distance import aggregate, allowed_pool, cosine_similarities, nearest, normalise


def case(seed: int, prompts: int = 3, width: int = 5, history: int = 4, size: int = 8) -> tuple:
    rng = np.random.default_rng(seed)
    rows, past = (
        normalise(rng.normal(size=(prompts, width, size))),
        normalise(rng.normal(size=(prompts, history, size))),
    )
    return rows, past, rng.random((prompts, history)) < 0.6, rng.random((prompts, width)) < 0.7


@pytest.mark.parametrize("pool", ["siblings", "history", "both"])
@pytest.mark.parametrize("how", ["nn", "knn", "mean"])
def test_distances_are_those_of_scipy(pool, how):
    rows, past, remembered, siblings = case(0)
    allowed, similar = allowed_pool(remembered, siblings, pool), cosine_similarities(rows, past)
    values, neighbour = aggregate(similar, allowed, how, k=2), nearest(similar, allowed)
    for k in range(len(rows)):
        apart = cdist(rows[k], np.concatenate([past[k], rows[k]]), "cosine")
        for w in range(rows.shape[1]):
            others = [apart[w, j] for j in range(4) if remembered[k, j] and pool != "siblings"]
            others += [apart[w, 4 + j] for j in range(5) if siblings[k, j] and j != w and pool != "history"]
            others = np.sort(others)
            expected = {"nn": others[:1], "knn": others[:2], "mean": others}[how]
            assert values[k, w] == pytest.approx(expected.mean() if len(others) else 0.0, abs=1e-6)
            if len(others):
                assert apart[w, neighbour[k, w]] == pytest.approx(others[0], abs=1e-6)


def test_an_empty_pool_gives_zero_and_no_neighbour():
    rows, past, remembered, siblings = case(2)
    allowed = allowed_pool(remembered & False, siblings & False, "both")
    for how in ("nn", "knn", "mean"):
        assert (aggregate(cosine_similarities(rows, past), allowed, how) == 0).all()
        assert (aggregate(np.zeros((1, 1, 0)), np.zeros((1, 1, 0), bool), "mean") == 0).all()
    assert (nearest(cosine_similarities(rows, past), allowed) == -1).all()


def test_alone_there_is_no_distance_rather_than_a_distance_of_zero():
    far = Lived(distance())
    values = far(step_with([[1, 0, 0], [1, 1, 0]], vectors=np.eye(6)))
    assert np.isnan(values[0, 0]), "its siblings are wrong and do not count"
    assert values[0, 1:] == pytest.approx(1.0), "wrong ones are compared with it"
    assert values[1] == pytest.approx(1.0)
    assert far.report["nearest"][0] is None
    assert far.report["nearest"][3] == "1:4"


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_the_novelty_of_duplicates_is_zero_and_permuting_rollouts_permutes_it(seed):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(12, 4))
    vectors[1], vectors[7] = vectors[0], vectors[9]
    correct, everybody = np.ones((2, 6)), distance(pool_filter="all")
    plain = Lived(everybody)(step_with(correct, vectors=vectors)).ravel()
    assert plain[[0, 1, 7, 9]] == pytest.approx(0.0, abs=3e-7)  # f32
    order = np.concatenate([rng.permutation(6), 6 + rng.permutation(6)])
    permuted = Lived(everybody)(step_with(correct, vectors=vectors[order])).ravel()
    np.testing.assert_allclose(permuted, plain[order], atol=1e-7)


def test_completions_of_a_problem_that_comes_twice_are_siblings():
    vectors = np.random.default_rng(0).normal(size=(8, 4))
    vectors[5] = vectors[0]
    step = step_with(np.ones((2, 4)), vectors=vectors, requests=asked("p3", "p3"))
    assert step.plain.members.shape == (1, 8)
    values = Lived(distance())(step)
    assert values.ravel()[[0, 5]] == pytest.approx(0.0, abs=3e-7)


def test_history_counts_from_the_second_visit_and_forgets_beyond_its_capacity():
    far, vectors, correct = Lived(distance(pool="history", capacity=4)), np.eye(8), np.ones((1, 4))
    assert np.isnan(far(step_with(correct, vectors=vectors[:4]))).all()
    assert far(step_with(correct, vectors=vectors[:4], index=1))[0] == pytest.approx(0.0)
    assert far.report["nearest"] == ["1:0", "1:1", "1:2", "1:3"], "steps of records count from 1"
    far(step_with(correct, vectors=vectors[4:], index=2))
    assert far(step_with(correct, vectors=vectors[:4], index=3))[0] == pytest.approx(1.0)
    assert far.state.size("p0") == 4


@pytest.mark.parametrize(("capacity", "kept"), [(None, 16), ("group", 4), (6, 6)])
def test_the_memory_of_a_problem_is_bounded(capacity, kept):
    far, rng = Lived(distance(capacity=capacity)), np.random.default_rng(0)
    for index in range(6):
        far(step_with(np.ones((1, 4)), vectors=rng.normal(size=(4, 3)), index=index))
    assert far.state.size("p0") == kept
    assert far.state.nbytes() == kept * 3 * 4
    assert far.state.problems["p0"].origins[-1].tolist() == [5, 3], "the newest are kept"


def test_below_the_least_history_there_is_no_distance():
    far = Lived(distance(min_history="group"))
    for index, known in enumerate([False, True]):
        values = far(step_with(np.ones((1, 3)), vectors=np.eye(3), index=index))
        assert np.isfinite(values).all() == known


def test_the_pool_filter_hides_wrong_completions():
    vectors = np.array([[1.0, 0], [1, 0.01], [0, 1], [1, 0.02]])
    step = step_with([[1, 0, 1, 0]], vectors=vectors)
    assert Lived(distance())(step)[0, 0] == pytest.approx(1.0), "its near twin is wrong and does not count"
    assert Lived(distance(pool_filter="all"))(step)[0, 0] == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize("remember_guided", [True, False])
def test_guided_completions_have_no_distance_and_are_no_siblings_but_may_be_remembered(remember_guided):
    far = Lived(distance(remember_guided=remember_guided))
    vectors = np.concatenate([np.eye(4)[[0, 1]], np.eye(4)[[0, 1]]])
    values = far(step_with(np.ones((2, 2)), vectors=vectors, requests=[*asked("p1"), guided(waiting("p1"))]))
    assert values[0] == pytest.approx(1.0), "its twin behind a prefix is not looked at"
    assert np.isnan(values[1]).all()
    assert far.state.size("p1") == (4 if remember_guided else 2)


def test_vectors_have_length_1_and_zero_stays_zero():
    vectors = normalise(np.array([[3.0, 4.0], [0.0, 0.0]]))
    np.testing.assert_allclose(vectors, [[0.6, 0.8], [0, 0]], atol=1e-7)
    assert vectors.dtype == np.float32
