"""pass@k against enumeration of subsets, its properties, and the intervals."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from extra_jax.errors import ExtraError
from extra_jax.telemetry.statistics import (
    bootstrap_interval,
    evaluation_metrics,
    evaluation_summary,
    hierarchical_draws,
    holm,
    paired_difference,
    pass_at_k,
    powers_of_two,
    quantile_interval,
    sign_flip_p,
    wilson_interval,
)


def brute_force_pass_at_k(n: int, c: int, k: int) -> float:
    outcomes = [1] * c + [0] * (n - c)
    subsets = list(itertools.combinations(outcomes, k))
    return sum(any(subset) for subset in subsets) / len(subsets)


@pytest.mark.parametrize("n", range(1, 9))
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_sample(n):
    for c, k in itertools.product(range(n + 1), range(1, n + 1)):
        assert pass_at_k(n, c, k) == pytest.approx(brute_force_pass_at_k(n, c, k), abs=1e-12)


def test_pass_at_k_is_stable_where_binomials_overflow():
    exact = 1 - math.comb(9_990, 1000) / math.comb(10_000, 1000)
    assert pass_at_k(10_000, 10, 1000) == pytest.approx(exact, rel=1e-10)


def test_pass_at_k_broadcasts():
    values = pass_at_k(8, np.arange(9)[:, None], np.array([1, 2, 8])[None, :])
    assert values.shape == (9, 3)
    assert values[3, 1] == pytest.approx(brute_force_pass_at_k(8, 3, 2))


counts = st.integers(1, 300).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n)))


@given(counts)
@settings(deadline=None, max_examples=60)
def test_pass_at_k_grows_with_k_from_the_mean_to_any(nc):
    n, c = nc
    values = pass_at_k(n, c, np.arange(1, n + 1))
    assert values[0] == pytest.approx(c / n, abs=1e-12)
    assert values[-1] == pytest.approx(float(c > 0), abs=1e-12)
    assert np.all(np.diff(values) >= -1e-12)
    assert np.all((values >= 0) & (values <= 1))


@pytest.mark.parametrize(("n", "c", "k"), [(4, 2, 5), (4, 2, 0), (4, 5, 1), (4, -1, 1), (0, 0, 1)])
def test_pass_at_k_refuses_impossible_counts(n, c, k):
    with pytest.raises(ValueError, match="pass@k needs"):
        pass_at_k(n, c, k)


def test_powers_of_two():
    assert powers_of_two(1) == [1]
    assert powers_of_two(6) == [1, 2, 4]
    assert powers_of_two(8) == [1, 2, 4, 8]


def test_summary_means_and_names():
    correct = np.array([[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]], bool)
    summary = evaluation_summary(correct)
    assert list(summary) == ["num_problems", "num_generations", "avg@4", "pass@1", "pass@2", "pass@4"]
    assert summary["pass@1"] == summary["avg@4"]
    assert summary["pass@1"]["mean"] == pytest.approx(0.5)
    assert summary["pass@2"]["mean"] == pytest.approx((5 / 6 + 0 + 1) / 3)
    assert summary["pass@4"]["mean"] == pytest.approx(2 / 3)
    assert all(summary[name]["low"] <= summary[name]["mean"] <= summary[name]["high"] for name in ("pass@1", "pass@4"))


def test_summary_is_seeded():
    correct = np.random.default_rng(0).random((50, 4)) < 0.4
    assert evaluation_summary(correct, seed=3) == evaluation_summary(correct, seed=3)
    assert evaluation_summary(correct, seed=3) != evaluation_summary(correct, seed=4)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    samples = generator.beta(1, 3, size=(300, 60))
    inside = 0
    for values in samples:
        low, high = bootstrap_interval(values, resamples=400)
        inside += low <= 0.25 <= high
    assert 0.90 <= inside / len(samples) <= 0.98


def test_interval_does_not_depend_on_the_chunks(monkeypatch):
    values = np.random.default_rng(0).random((40, 3))
    whole = bootstrap_interval(values)
    monkeypatch.setattr("extra_jax.telemetry.statistics._CELLS_AT_ONCE", 40 * 3 * 7)
    np.testing.assert_array_equal(whole, bootstrap_interval(values))


def test_paired_difference_is_sharper_than_two_intervals():
    generator = np.random.default_rng(0)
    difficulty = generator.random((200, 1))
    before = generator.random((200, 8)) < difficulty
    after = generator.random((200, 8)) < np.minimum(difficulty + 0.06, 1)
    change = paired_difference(before, after)
    one, two = evaluation_summary(before)["pass@1"], evaluation_summary(after)["pass@1"]
    assert change["mean"] == pytest.approx(two["mean"] - one["mean"])
    assert change["low"] > 0
    assert one["high"] > two["low"], "the separate intervals overlap, the paired one excludes zero"


def test_paired_difference_refuses_other_problems():
    with pytest.raises(ExtraError, match="cannot pair 3 problems before with 2 after"):
        paired_difference(np.ones((3, 2)), np.ones((2, 2)))


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (4,)])
def test_empty_evaluation_is_refused(shape):
    with pytest.raises(ExtraError, match="matrix of problems x samples"):
        evaluation_summary(np.zeros(shape, bool))


def test_evaluation_metrics_are_flat():
    metrics = evaluation_metrics(evaluation_summary(np.eye(4, dtype=bool)))
    assert {"eval_pass@1", "eval_pass@1_low", "eval_pass@1_high", "eval_avg@4", "eval_pass@4"} <= metrics.keys()
    assert all(isinstance(value, float) for value in metrics.values())


def test_the_interval_is_scipys_percentile_bootstrap():
    values = np.random.default_rng(0).beta(1, 3, 80)
    expected = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    assert np.array(bootstrap_interval(values, resamples=20_000)) == pytest.approx(expected, abs=0.003)


@pytest.mark.parametrize("count", [1, 2, 3, 6, 10])
def test_the_sign_flip_test_is_scipys_exact_permutation_test(count):
    for seed in range(5):
        values = np.random.default_rng(seed).normal(0.3, 1, count).round(1)
        flips = stats.permutation_test(
            (values, np.zeros(count)), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=np.inf
        ) if count > 1 else None  # fmt: skip
        assert sign_flip_p(values) == pytest.approx(1.0 if flips is None else flips.pvalue)


def test_the_random_sign_flip_test_agrees_with_the_exact_one():
    values = np.random.default_rng(1).normal(0.4, 1, 14)
    exact = sign_flip_p(values)
    assert sign_flip_p(np.append(values, np.zeros(6))) == pytest.approx(exact, abs=0.015), "zeros have no sign"


def test_the_smallest_p_value_is_that_of_the_number_of_seeds():
    assert [sign_flip_p(np.ones(n)) for n in (1, 3, 5, 6)] == [1.0, 0.25, 0.0625, 0.03125]
    assert sign_flip_p(np.zeros(4)) == 1.0
    assert sign_flip_p(np.ones(30)) == pytest.approx(1 / 10_001)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
@settings(deadline=None)
def test_holm_is_closed_testing_with_bonferroni(p_values):
    """By definition: a hypothesis falls when every intersection that contains it does, at ``min p <= level / size``."""
    indices = range(len(p_values))
    intersections = [s for size in range(1, len(p_values) + 1) for s in itertools.combinations(indices, size)]
    for index, adjusted in enumerate(holm(p_values)):
        sizes = [min(1.0, len(s) * min(p_values[i] for i in s)) for s in intersections if index in s]
        assert adjusted == pytest.approx(max(sizes))


def test_hierarchical_draws_have_the_variance_of_a_crossed_design():
    """Seed effects and problem effects that are drawn independently: the variances of both means add up."""
    generator = np.random.default_rng(0)
    seeds, problems = generator.normal(0, 0.2, (12, 1)), generator.normal(0, 0.5, (1, 50))
    draws = hierarchical_draws([seeds + problems, seeds + problems[:, :30]])
    assert draws.shape == (10_000, 2)
    for column, width in zip(draws.T, (50, 30), strict=True):
        expected = seeds.var() / 12 + problems[:, :width].var() / width
        assert column.var() == pytest.approx(expected, rel=0.06)
        assert column.mean() == pytest.approx((seeds + problems[:, :width]).mean(), abs=0.01)
    assert np.cov(draws.T)[0, 1] == pytest.approx(seeds.var() / 12, rel=0.2), "benchmarks share the drawn seeds"


def test_hierarchical_draws_of_one_seed_are_the_bootstrap_over_problems():
    values = np.random.default_rng(0).normal(0, 1, 60)
    low, high = quantile_interval(hierarchical_draws([values[None, :]])[:, 0])
    expected = stats.bootstrap((values,), np.mean, n_resamples=10_000, method="percentile", rng=1).confidence_interval
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.02)


def test_a_summary_with_votes_has_the_majority():
    summary = evaluation_summary(np.eye(4, dtype=bool), np.array([1.0, 0.5, 0.0, 1.0]))
    assert summary["maj@4"]["mean"] == pytest.approx(0.625)
    assert "maj@4" not in evaluation_summary(np.eye(4, dtype=bool))


@pytest.mark.parametrize(("successes", "trials"), [(0, 1), (1, 1), (3, 7), (500, 1000)])
def test_wilson_interval_is_that_of_scipy(successes, trials):
    expected = stats.binomtest(successes, trials).proportion_ci(method="wilson")
    assert wilson_interval(successes, trials) == pytest.approx((expected.low, expected.high))
