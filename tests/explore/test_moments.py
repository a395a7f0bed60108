"""Moments, centring, scaling and caps: exact properties, and the tables of docs/methods/extra.md by enumeration."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from explore.steps import Lived, asked, guided, step_with, waiting
from extra_jax.data.problem import Problem
from extra_jax.exploration import PromptRequest
from extra_jax.explore import bonus, cap, correct_only, distance, novelty, standardise, stateless
from extra_jax.explore.distance import aggregate
from extra_jax.explore.moments import Moments, centred, strength

gates = st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=4)


@given(gates, st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_loo_correct_sums_to_zero_over_correct_and_is_zero_alone_and_elsewhere(gate, seed):
    gate = np.array(gate)
    far = np.random.default_rng(seed).random(gate.shape)
    values = centred(far, gate, "loo_correct", Moments())
    assert values.sum(axis=1) == pytest.approx(0.0, abs=1e-12)
    assert (values[~gate] == 0).all()
    assert (values[gate.sum(axis=1) <= 1] == 0).all()
    brute = [
        [gate[k, i] * (far[k, i] - np.mean([far[k, j] for j in range(6) if gate[k, j] and j != i]))
         if gate[k, i] and gate[k].sum() > 1 else 0.0 for i in range(6)] for k in range(len(gate))
    ]  # fmt: skip
    np.testing.assert_allclose(values, brute, atol=1e-12)


def test_equal_distances_give_exact_zeros():
    values = np.full((1, 7), 0.1) * 3  # not a binary fraction
    assert (centred(values, np.ones((1, 7), bool), "loo_correct", Moments()) == 0).all()


RELEASED = {"pool_filter": "all", "capacity": "group", "centring": "none", "scaling": "raw", "cap_at": None}


@given(gates, st.sampled_from([{}, RELEASED, {"centring": "ema"}, {"centring": "shrink"}]), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_a_group_without_a_correct_completion_gets_no_bonus_whatever_the_settings(gate, chosen, seed):
    gate = np.array(gate)
    gate[0] = False
    vectors, far = np.random.default_rng(seed).normal(size=(gate.size, 4)), Lived(novelty(**chosen))
    for index in range(2):
        step = step_with(gate, vectors=vectors, index=index)
        paid = far(step, step.advantages) - step.advantages
        assert (paid[0] == 0.0).all()
        assert (paid[~gate] == 0.0).all()


def enumerated(probabilities: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every group of ``n`` draws: modes ``[S, n]``, probability ``[S]``, scores ``grad log p`` ``[S, n, modes]``."""
    modes = np.array(list(itertools.product(range(len(probabilities)), repeat=n)))
    return modes, probabilities[modes].prod(axis=1), np.eye(len(probabilities))[modes] - probabilities


def signal_to_noise(values: np.ndarray, weights: np.ndarray, scores: np.ndarray) -> float:
    """``||E g||^2 / tr Cov g`` of the estimate ``g = mean_i value_i score_i`` of one group."""
    gradients = np.einsum("si,sim->sm", values, scores) / values.shape[1]
    mean = weights @ gradients
    return float(mean @ mean / (weights @ (gradients**2).sum(axis=1) - mean @ mean))


@pytest.mark.parametrize(
    ("probabilities", "offset", "expected"),
    [
        ((0.6, 0.2, 0.1, 0.06, 0.04), 0.00, {"none": 0.642, "loo_correct": 0.600, "ema": 0.675}),
        ((0.6, 0.2, 0.1, 0.06, 0.04), 0.03, {"none": 0.062, "loo_correct": 0.600, "ema": 0.675}),
        ((0.6, 0.2, 0.1, 0.06, 0.04), 0.10, {"none": 0.007, "loo_correct": 0.600, "ema": 0.675}),
        ((0.3, 0.25, 0.2, 0.15, 0.1), 0.03, {"none": 0.011, "loo_correct": 0.050, "ema": 0.074}),
    ],
)
def test_signal_to_noise_of_the_baselines_is_the_published_table(probabilities, offset, expected):
    """All correct, distance ``offset + 0.02`` where no sibling is of the same mode, else ``offset``."""
    probabilities = np.array(probabilities)
    modes, weights, scores = enumerated(probabilities, 6)
    same = (modes[:, :, None] == modes[:, None, :]).astype(float)
    similar = 1.0 - offset - 0.02 * (1.0 - same)
    others = np.broadcast_to(~np.eye(6, dtype=bool), similar.shape)
    far = aggregate(similar, others, "nn")
    past = Moments(total=float(weights @ far.mean(axis=1)), count=1.0)
    gate = np.ones(modes.shape, bool)
    for how, value in expected.items():
        snr = signal_to_noise(centred(far, gate, how, past), weights, scores)
        assert snr == pytest.approx(value, abs=6e-4), how


@pytest.mark.parametrize(("n", "factors"), [(4, {"none": 2, "loo_correct": 4 / 3}), (2, {"none": 1, "loo_correct": 0})])
def test_own_terms_point_along_the_gradient_of_the_mean_pairwise_distance(n, factors):
    """``E sum_i d_i score_i`` is a known multiple of the gradient of the set's diversity."""
    probabilities = np.array([0.5, 0.3, 0.2])
    modes, weights, scores = enumerated(probabilities, n)
    apart = (modes[:, :, None] != modes[:, None, :]).astype(float)
    diversity = apart.sum(axis=(1, 2)) / (n * (n - 1))
    gradient = weights @ (diversity[:, None] * scores.sum(axis=1))
    others = np.broadcast_to(~np.eye(n, dtype=bool), apart.shape)
    far = aggregate(1.0 - apart, others, "mean")
    for how, factor in factors.items():
        values = centred(far, np.ones(modes.shape, bool), how, Moments())
        np.testing.assert_allclose(weights @ np.einsum("si,sim->sm", values, scores), factor * gradient, atol=1e-12)


def test_shrink_lies_between_its_two_sides_and_acts_alone():
    values = np.array([[0.5, 0.3, 0.1, 0.0]])
    both, alone = np.array([[1, 1, 0, 0]], bool), np.array([[1, 0, 0, 0]], bool)
    known = {"total": 2.0, "count": 10.0, "freedom": 10.0, "groups": 10.0}
    only_within = Moments(squares=1.0, means=2.0, means_squared=0.4, inverse_sizes=5.0, **known)
    assert only_within.between_variance == 0.0
    np.testing.assert_allclose(centred(values, both, "shrink", only_within), centred(values, both, "ema", only_within))
    only_between = Moments(squares=0.0, means=2.0, means_squared=2.0, **known)
    np.testing.assert_allclose(
        centred(values, both, "shrink", only_between), centred(values, both, "loo_correct", only_between)
    )
    assert centred(values, alone, "shrink", only_between)[0, 0] == pytest.approx(0.5 - 0.2)


def test_moments_are_pooled_moments_and_forget():
    rng = np.random.default_rng(0)
    values, counted = rng.random((50, 6)), rng.random((50, 6)) < 0.7
    moments = Moments().updated(values, counted, 0.9)
    groups = [row[mask] for row, mask in zip(values, counted, strict=True)]
    assert moments.mean == pytest.approx(values[counted].mean())
    pooled = sum(((g - g.mean()) ** 2).sum() for g in groups if len(g)) / sum(len(g) - 1 for g in groups if len(g))
    assert moments.within_variance == pytest.approx(pooled)
    later = moments.updated(values + 1.0, counted, 0.0)
    assert later.mean == pytest.approx(moments.mean + 1.0), "nothing of the past is left at decay 0"
    assert Moments().within_std == Moments().mean == Moments().between_variance == 0.0


def test_between_variance_is_that_of_the_true_means():
    rng = np.random.default_rng(1)
    means = rng.normal(1.0, 0.3, (4000, 1))
    moments = Moments().updated(means + rng.normal(0, 0.2, (4000, 4)), np.ones((4000, 4), bool), 0.9)
    assert moments.between_variance == pytest.approx(0.09, rel=0.1)
    assert moments.within_std == pytest.approx(0.2, rel=0.05)


def test_std_matched_makes_alpha_the_deviation_of_the_bonus_but_keeps_even_groups_small():
    rng = np.random.default_rng(2)
    spread = np.where(np.arange(200) < 100, 0.05, 0.001)[:, None]  # half of the groups hardly differ
    far = 0.4 + spread * rng.normal(size=(200, 6))
    step = step_with(np.ones((200, 6)), requests=[PromptRequest(Problem(f"q{i}", "", "")) for i in range(200)])
    values = Lived(standardise(0.1))(step, far)
    unbiased = values * np.sqrt(5 / 6)  # loo_correct stretches by k / (k - 1), a mean over k shrinks
    assert unbiased.std() == pytest.approx(0.1, rel=0.02)
    assert values[100:].std() < 0.05 * values[:100].std()


def test_strength_is_zero_as_long_as_nothing_is_known_about_the_spread():
    alone = Moments().updated(np.array([[0.3, 0.0]]), np.array([[True, False]]), 0.95)
    assert strength(0.5, "std_matched", alone) == 0.0
    assert strength(0.5, "raw", alone) == 0.5


def test_standardise_measures_itself_with_this_step_but_its_baseline_with_those_before():
    step, scaled = step_with(np.ones((1, 3))), Lived(standardise(2.0, centring="ema", scaling="raw"))
    first, second = np.array([[0.1, 0.2, 0.6]]), np.array([[0.5, 0.5, 0.8]])
    np.testing.assert_allclose(scaled(step, first), 2.0 * (first - 0.3), err_msg="nothing else is known at first")
    np.testing.assert_allclose(scaled(step, second), 2.0 * (second - 0.3))
    assert scaled.state.mean == pytest.approx((0.95 * 0.9 + 1.8) / (0.95 * 3 + 3))
    assert scaled.report["novelty_within_std"] == scaled.state.within_std


def test_standardise_leaves_out_what_has_no_value_and_what_is_guided():
    step = step_with(np.ones((2, 3)), requests=[*asked("p0"), guided(waiting("p1"))])
    values = Lived(standardise(1.0, scaling="raw"))(step, [[0.1, np.nan, 0.5], [0.1, 0.2, 0.3]])
    np.testing.assert_allclose(values, [[-0.4, np.nan, 0.4], [np.nan] * 3])


def test_caps():
    values = np.array([[-1 / 3, -1 / 3, 0.0, 1.0]] * 2)
    step = step_with([[1, 1, 1, 0], [1, 1, 1, 1]], advantages=np.full((2, 4), 0.6))
    capped = Lived(cap(0.5, ratio=3.0))
    found = capped(step, values)
    assert found[0] == pytest.approx([-0.2, -0.2, 0.0, 0.2]), "a third of |advantage| in a mixed group"
    assert found[1] == pytest.approx([-1 / 3, -1 / 3, 0.0, 0.5]), "the limit elsewhere"
    assert capped.report["bonus_capped_share"] == 4 / 8
    assert Lived(cap(0.1, ratio=3.0))(step, values)[0] == pytest.approx([-0.1, -0.1, 0.0, 0.1]), "the smaller of both"
    assert (Lived(cap())(step, values) == values).all()


@given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, 1.5, 4.0]))
@settings(max_examples=30, deadline=None)
def test_with_a_ratio_of_one_or_more_no_advantage_of_a_mixed_group_turns_its_sign(seed, ratio):
    rng = np.random.default_rng(seed)
    step = step_with(rng.random((4, 6)) < 0.5, vectors=rng.normal(size=(24, 4)))
    paid = Lived(novelty(5.0, cap_at=None, cap_ratio=ratio))(step, step.advantages)
    assert (paid * step.advantages >= 0)[step.mixed].all()


def test_novelty_is_the_chain_that_it_says():
    rng, parts = np.random.default_rng(5), (distance(), correct_only(), standardise(0.3), cap(0.9, 1.5))
    together, apart = Lived(novelty(0.3)), [Lived(part) for part in parts]
    for index in range(3):
        step = step_with(rng.random((4, 6)) < 0.6, vectors=rng.normal(size=(24, 4)), index=index)
        values = np.full(step.correct.shape, np.nan)
        for part in apart:
            values = part(step, values)
        expected = step.advantages + np.nan_to_num(values)
        np.testing.assert_array_equal(together(step, step.advantages), expected)


def test_a_bonus_is_added_where_there_is_one_and_reports_its_size():
    step = step_with([[1, 1, 0, 0], [1, 1, 1, 1]])
    given_values = np.array([[0.25, np.nan, np.nan, -0.25], [0.5, 0.0, np.nan, 0.0]])
    paid = Lived(bonus(stateless(lambda step, values, state: (given_values, state, {}))))
    advantages = step.advantages.copy()
    advantages[1, 1] = -0.0
    after = paid(step, advantages)
    assert after[0, 0] == advantages[0, 0] + 0.25
    untouched = np.isnan(given_values) | (given_values == 0)
    assert after[untouched].tobytes() == advantages[untouched].tobytes(), "bit for bit, a zero with its sign too"
    report = paid.report
    assert report["bonus"] == [0.25, None, None, -0.25, 0.5, 0.0, None, 0.0]
    assert report["bonus_abs_mean"] == pytest.approx(1.0 / 5)
    assert report["bonus_share_all_correct"] == pytest.approx(0.5)
    assert report["bonus_negative_share"] == pytest.approx(1 / 5)
    assert report["bonus_to_advantage"] == pytest.approx(0.25 / np.abs(step.advantages[0]).mean())
