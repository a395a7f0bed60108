"""Centring, scaling and caps: exact properties, and the tables of method/extra.md b.2 by enumeration."""

import itertools

import numpy as np
import pytest
from extra_jax.explore.bonus import Scales, bonus, centred, schedule_factor, strength
from extra_jax.explore.state import ExplorationState
from hypothesis import given, settings
from hypothesis import strategies as st

from explore.steps import Visit, config_of
from extra_jax.explore.distance import Distances, distances

NO_CAPS = {"cap": None, "cap_ratio": None}
gates = st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=4)


def novelty(**changes):
    return config_of({"preset": "corrected", "novelty": NO_CAPS | changes}).explore.novelty


@given(gates, st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_loo_correct_sums_to_zero_over_correct_and_is_zero_alone_and_elsewhere(gate, seed):
    gate = np.array(gate)
    found = Distances(np.random.default_rng(seed).random(gate.shape), np.zeros(gate.shape, int))
    values = centred(found, gate, "loo_correct", Scales())
    assert values.sum(axis=1) == pytest.approx(0.0, abs=1e-12)
    assert (values[~gate] == 0).all()
    assert (values[gate.sum(axis=1) <= 1] == 0).all()
    brute = [
        [gate[k, i] * (found.values[k, i] - np.mean([found.values[k, j] for j in range(6) if gate[k, j] and j != i]))
         if gate[k, i] and gate[k].sum() > 1 else 0.0 for i in range(6)] for k in range(len(gate))
    ]  # fmt: skip
    np.testing.assert_allclose(values, brute, atol=1e-12)


def test_equal_distances_give_exact_zeros():
    values = np.full((1, 7), 0.1) * 3  # not a binary fraction
    assert (centred(Distances(values, values), np.ones((1, 7), bool), "loo_correct", Scales()) == 0).all()


@given(gates, st.sampled_from(["corrected", "release_faithful"]), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_a_group_without_a_correct_completion_gets_no_bonus_whatever_the_settings(gate, preset, seed):
    gate = np.array(gate)
    gate[0] = False
    config = config_of({"preset": preset, "novelty": {"min_history": 0}}, num_generations=6)
    vectors = np.random.default_rng(seed).normal(size=(gate.size, 4))
    state = ExplorationState()
    for step in range(2):
        made = Visit(config, state, vectors, gate.ravel(), 6, step=step).run(np.where(gate, 1.0, 0.0))
        assert (made.bonus[0] == 0.0).all()
        assert (made.advantages[0] == 0.0).all()
        assert (made.bonus[~gate] == 0.0).all()


@pytest.mark.parametrize("gate", ["correct", "all"])
def test_gate_all_still_leaves_groups_without_a_solution_alone(gate):
    correct = np.array([1, 0, 0, 1, 0, 0, 0, 0], bool)
    config = config_of({"preset": "corrected", "novelty": {"gate": gate, "pool_filter": "all"}}, num_generations=4)
    made = Visit(config, ExplorationState(), np.random.default_rng(0).normal(size=(8, 4)), correct, 4)
    made.run(np.where(correct, 1.0, 0.0).reshape(2, 4))
    assert (made.bonus[1] == 0).all()
    assert (made.bonus[0, 1:3] != 0).all() == (gate == "all")


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
        ((0.6, 0.2, 0.1, 0.06, 0.04), 0.00, {"none": 0.642, "loo_correct": 0.600, "ema": 0.675, "loo_exact": 0.401}),
        ((0.6, 0.2, 0.1, 0.06, 0.04), 0.03, {"none": 0.062, "loo_correct": 0.600, "ema": 0.675, "loo_exact": 0.401}),
        ((0.6, 0.2, 0.1, 0.06, 0.04), 0.10, {"none": 0.007, "loo_correct": 0.600, "ema": 0.675, "loo_exact": 0.401}),
        ((0.3, 0.25, 0.2, 0.15, 0.1), 0.03, {"none": 0.011, "loo_correct": 0.050, "ema": 0.074, "loo_exact": 0.039}),
    ],
)
def test_signal_to_noise_of_the_baselines_is_the_published_table(probabilities, offset, expected):
    """b.2-2: all correct, distance ``offset + 0.02`` where no sibling is of the same mode, else ``offset``."""
    probabilities = np.array(probabilities)
    modes, weights, scores = enumerated(probabilities, 6)
    same = (modes[:, :, None] == modes[:, None, :]).astype(float)
    similar = 1.0 - offset - 0.02 * (1.0 - same)
    others = np.broadcast_to(~np.eye(6, dtype=bool), similar.shape)
    found = distances(similar, others, leave_one_out=True)
    mean = float(weights @ found.values.mean(axis=1))
    past = Scales(total=mean, count=1.0)
    gate = np.ones(modes.shape, bool)
    for how, value in expected.items():
        snr = signal_to_noise(centred(found, gate, how, past), weights, scores)
        assert snr == pytest.approx(value, abs=6e-4), how


@pytest.mark.parametrize(
    ("n", "factors"), [(4, {"none": 2, "loo_correct": 4 / 3, "loo_exact": 2}), (2, {"none": 1, "loo_correct": 0})]
)
def test_own_terms_point_along_the_gradient_of_the_mean_pairwise_distance(n, factors):
    """b.2-4: ``E sum_i d_i score_i`` is a known multiple of the gradient of the set's diversity."""
    probabilities = np.array([0.5, 0.3, 0.2])
    modes, weights, scores = enumerated(probabilities, n)
    apart = (modes[:, :, None] != modes[:, None, :]).astype(float)
    diversity = apart.sum(axis=(1, 2)) / (n * (n - 1))
    gradient = weights @ (diversity[:, None] * scores.sum(axis=1))
    others = np.broadcast_to(~np.eye(n, dtype=bool), apart.shape)
    found = distances(1.0 - apart, others, "mean", leave_one_out=n > 2)
    for how, factor in factors.items():
        values = centred(found, np.ones(modes.shape, bool), how, Scales())
        np.testing.assert_allclose(weights @ np.einsum("si,sim->sm", values, scores), factor * gradient, atol=1e-12)


def test_loo_all_keeps_the_expectation_of_the_raw_bonus():
    probabilities = np.array([0.5, 0.3, 0.2])
    modes, weights, scores = enumerated(probabilities, 4)
    gate = modes != 2  # the third mode is wrong
    apart = (modes[:, :, None] != modes[:, None, :]).astype(float)
    others = np.broadcast_to(~np.eye(4, dtype=bool), apart.shape) & gate[:, None, :]
    found = distances(1.0 - apart, others, "mean", leave_one_out=True)
    raw, lowered = (
        weights @ np.einsum("si,sim->sm", centred(found, gate, how, Scales()), scores) for how in ("none", "loo_all")
    )
    np.testing.assert_allclose(lowered, raw, atol=1e-12)


def test_shrink_lies_between_its_two_sides_and_acts_alone():
    values = np.array([[0.5, 0.3, 0.1, 0.0]])
    found, both, alone = Distances(values, values), np.array([[1, 1, 0, 0]], bool), np.array([[1, 0, 0, 0]], bool)
    moments = {"total": 2.0, "count": 10.0, "freedom": 10.0, "groups": 10.0}
    only_within = Scales(squares=1.0, means=2.0, means_squared=0.4, inverse_sizes=5.0, **moments)
    assert only_within.between_variance == 0.0
    np.testing.assert_allclose(centred(found, both, "shrink", only_within), centred(found, both, "ema", only_within))
    only_between = Scales(squares=0.0, means=2.0, means_squared=2.0, **moments)
    np.testing.assert_allclose(
        centred(found, both, "shrink", only_between), centred(found, both, "loo_correct", only_between)
    )
    assert centred(found, alone, "shrink", only_between)[0, 0] == pytest.approx(0.5 - 0.2)


def test_scales_are_pooled_moments_and_forget():
    rng = np.random.default_rng(0)
    values, counted = rng.random((50, 6)), rng.random((50, 6)) < 0.7
    scales = Scales().updated(values, counted, 0.9)
    groups = [row[mask] for row, mask in zip(values, counted, strict=True)]
    assert scales.mean == pytest.approx(values[counted].mean())
    pooled = sum(((g - g.mean()) ** 2).sum() for g in groups if len(g)) / sum(len(g) - 1 for g in groups if len(g))
    assert scales.within_variance == pytest.approx(pooled)
    later = scales.updated(values + 1.0, counted, 0.0)
    assert later.mean == pytest.approx(scales.mean + 1.0), "nothing of the past is left at decay 0"
    assert Scales().within_std == Scales().mean == Scales().between_variance == 0.0


def test_between_variance_is_that_of_the_true_means():
    rng = np.random.default_rng(1)
    means = rng.normal(1.0, 0.3, (4000, 1))
    scales = Scales().updated(means + rng.normal(0, 0.2, (4000, 4)), np.ones((4000, 4), bool), 0.9)
    assert scales.between_variance == pytest.approx(0.09, rel=0.1)
    assert scales.within_std == pytest.approx(0.2, rel=0.05)


def test_std_matched_makes_alpha_the_deviation_of_the_bonus_but_keeps_even_groups_small():
    rng = np.random.default_rng(2)
    spread = np.where(np.arange(200) < 100, 0.05, 0.001)[:, None]  # half of the groups hardly differ
    found = Distances(0.4 + spread * rng.normal(size=(200, 6)), np.zeros((200, 6), int))
    gate = np.ones((200, 6), bool)
    scales = Scales().updated(found.values, gate, 0.9)
    settings = novelty(alpha=0.1)
    made = bonus(found, gate, settings, past=Scales(), strength=strength(settings, scales))
    unbiased = made.values * np.sqrt(5 / 6)  # loo_correct stretches by k / (k - 1), a mean over k shrinks
    assert unbiased.std() == pytest.approx(0.1, rel=0.02)
    assert made.values[100:].std() < 0.05 * made.values[:100].std()


def test_caps():
    found = Distances(np.array([[0.0, 0.0, 0.0, 1.0]] * 2), np.zeros((2, 4), int))
    gate = np.ones((2, 4), bool)
    advantages, mixed = np.full((2, 4), 0.6), np.array([[True] * 4, [False] * 4])
    settings = config_of(
        {"preset": "corrected", "novelty": {"scaling": "raw", "alpha": 1.0, "cap": 0.5, "cap_ratio": 3.0}}
    ).explore.novelty
    made = bonus(found, gate, settings, past=Scales(), strength=1.0, advantages=advantages, mixed=mixed)
    assert made.values[0] == pytest.approx([-0.2, -0.2, -0.2, 0.2]), "a third of |advantage| in a mixed group"
    assert made.values[1] == pytest.approx([-1 / 3, -1 / 3, -1 / 3, 0.5]), "half of alpha elsewhere"
    assert made.capped.tolist() == [[True] * 4, [False, False, False, True]]


def test_group_max_divides_by_the_largest_distance_of_the_group():
    values = np.array([[0.1, 0.2, 0.4], [0.0, 0.0, 0.0]])
    made = bonus(
        Distances(values, values), np.ones((2, 3), bool), novelty(centring="none", scaling="group_max", alpha=1.0),
        past=Scales(), strength=1.0,
    )  # fmt: skip
    np.testing.assert_allclose(made.values, [[0.25, 0.5, 1.0], [0, 0, 0]])


def test_schedules():
    assert [schedule_factor("const", s, 100) for s in (0, 99)] == [1.0, 1.0]
    assert [schedule_factor("linear", s, 100) for s in (0, 25, 100)] == [1.0, 0.75, 0.0]
    assert [schedule_factor("cosine", s, 100) for s in (0, 50, 100)] == pytest.approx([1.0, 0.5, 0.0])


def test_length_residual_removes_what_length_explains():
    lengths = np.arange(1.0, 9.0)
    vectors = np.random.default_rng(3).normal(size=(8, 4))
    config = config_of({"preset": "corrected", "novelty": {"length_residual": True}}, num_generations=8)
    made = Visit(config, ExplorationState(), vectors, np.ones(8, bool), 8, lengths=lengths)
    assert abs(np.corrcoef(made.measured.used.values[0], lengths)[0, 1]) < 1e-10
    assert made.measured.used.values.mean() == pytest.approx(made.measured.real.values.mean())
    assert abs(np.corrcoef(made.measured.real.values[0], lengths)[0, 1]) > 0.01
