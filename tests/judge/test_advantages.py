"""Advantages: the specification's test vectors, loops that follow its formulas, and invariances."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extra_jax.judge.advantages import outcome_advantages, process_advantages

NA = np.nan
# docs/methods/exprl.md, section 4: four rollouts in the groups {0, 1} and {2, 3}.
SCORES = np.array([[0.25, 0.75, 0.5, NA], [0.5, NA, NA, NA], [0.25, 0.75, NA, NA], [1, 0, 0.25, 0.5]])
COUNTS, GROUP, VALID = np.array([3, 1, 2, 4]), np.array([0, 0, 1, 1]), np.ones(4, bool)
VECTORS = {
    ("delta", "paper"): [[-0.25, 0.5, -0.25, 0], [0, 0, 0, 0], [-0.5, 0.5, 0, 0], [0.5, -1, 0.25, 0.25]],
    ("delta", "code"): [[-0.25, 0.5, -0.25, 0], [0.5, 0, 0, 0], [-0.5, 0.5, 0, 0], [0.5, -1, 0.25, 0.25]],
    ("end", "paper"): [[-0.25, 0.25, 0.5, 0], [0.5, 0, 0, 0], [-0.5, 0.75, 0, 0], [0.5, -0.5, -0.25, 0.5]],
    ("end", "code"): [[-0.25, 0.25, 0, 0], [0, 0, 0, 0], [-0.5, 0, 0, 0], [0.5, -0.5, -0.25, 0]],
    ("group", "paper"): [
        [-0.25, 0.25, 0, 0], [0, 0, 0, 0], [-0.21875, 0.28125, 0, 0], [0.53125, -0.46875, -0.21875, 0.03125]
    ],
}  # fmt: skip


@pytest.mark.parametrize(("estimator", "faithful"), VECTORS)
def test_vectors_of_the_specification(estimator, faithful):
    found, learned = process_advantages(SCORES, COUNTS, GROUP, VALID, estimator, faithful)
    np.testing.assert_allclose(found, VECTORS[estimator, faithful], atol=1e-12)
    assert learned.all()


@pytest.mark.parametrize("estimator", ["delta", "end", "group", "batch", "raw"])
@pytest.mark.parametrize("faithful", ["paper", "recommended"])
def test_a_rollout_with_an_unscored_segment_is_dropped_and_changes_nobody_else(estimator, faithful):
    lost = np.vstack([SCORES, [NA, 0.5, 0.75, NA]])
    found, learned = process_advantages(
        lost, np.append(COUNTS, 3), np.append(GROUP, 1), np.append(VALID, True), estimator, faithful
    )
    alone, _ = process_advantages(SCORES, COUNTS, GROUP, VALID, estimator, faithful)
    np.testing.assert_array_equal(found[:4], alone)
    assert not learned[4]
    assert not found[4].any()


def test_the_released_delta_keeps_a_rollout_whose_first_segment_is_lost():
    scores = np.array([[NA, 0.5, 0.75], [NA, 0.5, 0.0], [0.5, NA, 0.75]])
    found, learned = process_advantages(scores, np.full(3, 3), np.zeros(3, int), np.ones(3, bool), "delta", "code")
    np.testing.assert_allclose(found[0], [-100.75, 0.5, 0.25])
    assert learned.tolist() == [True, False, False]


def test_the_released_group_baseline_is_divided_twice():
    scores = np.array([[0.25], [0.5], [0.75], [1.0]])
    ones = np.ones(4, int)
    arguments = (scores, ones, np.zeros(4, int), np.ones(4, bool))
    code, _ = process_advantages(*arguments, "group", "code", tokens=np.full((4, 1), 7), max_length=100)
    paper, _ = process_advantages(*arguments, "group", "paper")
    np.testing.assert_allclose(scores - code, 0.00625)
    np.testing.assert_allclose(scores - paper, 0.625)
    batch, _ = process_advantages(*arguments, "batch", "code", tokens=np.full((4, 1), 7))
    np.testing.assert_allclose(scores - batch, 0.625)
    with pytest.raises(ValueError, match="padded length"):
        process_advantages(*arguments, "group", "code")


def test_recommended_delta_by_hand():
    found, _ = process_advantages(SCORES, COUNTS, GROUP, VALID, "delta", "recommended")
    np.testing.assert_allclose(found[0], [0.25 - 0.5, 0.5, -0.25, 0])  # the other rollout opened with 0.5
    np.testing.assert_allclose(found[2], [0.25 - 1.0, 0.5, 0, 0])
    single = outcome_advantages(np.array([0.5, 0.5]), np.zeros(2, int), np.ones(2, bool))[1]
    assert found[1, 0] == single
    lone, _ = process_advantages(SCORES[2:3], COUNTS[2:3], GROUP[2:3], VALID[2:3])
    np.testing.assert_allclose(lone, [[0, 0.5, 0, 0]])


@pytest.mark.parametrize(("rule", "expected"), [("zero", 0.0), ("raw", 1.0), ("grpo", 0.5 / (np.sqrt(0.5) + 1e-6))])
def test_single_segment_rules(rule, expected):
    batch = (np.array([[1.0], [0.0]]), np.ones(2, int), np.zeros(2, int), np.ones(2, bool))
    found, _ = process_advantages(*batch, "delta", "paper", single_segment=rule)
    assert found[0, 0] == pytest.approx(expected)


def test_group_relative_vectors():
    rewards, group, valid = np.array([0, 0.25, 0.5, 1]), np.zeros(4, int), np.ones(4, bool)
    # The specification prints four digits, the second of them cut off instead of rounded.
    expected = [-1.0247, -0.4391, 0.1464, 1.3175]
    np.testing.assert_allclose(outcome_advantages(rewards, group, valid), expected, atol=6e-5)
    rewards, valid = np.array([1, 1, 1, NA]), np.array([1, 1, 1, 0], bool)
    np.testing.assert_array_equal(outcome_advantages(rewards, group, valid), np.zeros(4))
    np.testing.assert_allclose(
        outcome_advantages(rewards, group, valid, faithful="code"), [0.5, 0.5, 0.5, 0], atol=5e-6
    )
    np.testing.assert_allclose(outcome_advantages([0.0, 1.0], [3, 3], [True, True], scale="none"), [-0.5, 0.5])
    np.testing.assert_array_equal(outcome_advantages([0.0, 1.0], [3, 4], [True, True]), [0, 0])


def test_outcome_mix_adds_to_every_segment():
    plain, _ = process_advantages(SCORES, COUNTS, GROUP, VALID, "delta", "paper")
    mixed, _ = process_advantages(SCORES, COUNTS, GROUP, VALID, "delta", "paper", outcome_mix=0.5)
    final = outcome_advantages(np.array([0.5, 0.5, 0.75, 0.5]), GROUP, VALID)
    inside = np.arange(4)[None] < COUNTS[:, None]
    np.testing.assert_allclose(mixed - plain, np.where(inside, 0.5 * final[:, None], 0))


@st.composite
def batches(draw):
    rollouts = draw(st.integers(1, 8))
    counts = draw(st.lists(st.integers(1, 4), min_size=rollouts, max_size=rollouts))
    level = st.sampled_from([0, 0.25, 0.5, 0.75, 1, NA])
    scores = np.full((rollouts, 4), NA)
    for row, count in enumerate(counts):
        scores[row, :count] = draw(st.lists(level, min_size=count, max_size=count))
    group = draw(st.lists(st.integers(0, 2), min_size=rollouts, max_size=rollouts))
    valid = draw(st.lists(st.booleans(), min_size=rollouts, max_size=rollouts))
    return scores, np.array(counts), np.array(group), np.array(valid)


def loop(scores, counts, group, valid, estimator):
    """The paper's formulas, one rollout and one segment at a time."""
    live = [v and not np.isnan(s[:c]).any() for s, c, v in zip(scores, counts, valid, strict=True)]
    out = np.zeros(scores.shape)
    for b in np.flatnonzero(live):
        s, last = scores[b], scores[b, counts[b] - 1]
        mates = [k for k in np.flatnonzero(live) if estimator == "batch" or group[k] == group[b]]
        baseline = np.mean([scores[k, : counts[k]].mean() for k in mates])
        for t in range(counts[b]):
            out[b, t] = {
                "delta": s[t] - (last if t == 0 else s[t - 1]),
                "end": last if t == counts[b] - 1 else s[t] - last,
                "group": s[t] - baseline,
                "batch": s[t] - baseline,
                "raw": s[t],
            }[estimator]
    return out


@given(batches(), st.sampled_from(["delta", "end", "group", "batch", "raw"]))
@settings(max_examples=200)
def test_estimators_against_loops(batch, estimator):
    found, _ = process_advantages(*batch, estimator, "paper")
    np.testing.assert_allclose(found, loop(*batch, estimator), atol=1e-12)


@given(batches(), st.sampled_from(["delta", "end", "group", "batch", "raw"]), st.randoms())
@settings(max_examples=100)
def test_order_of_rollouts_and_padding_do_not_matter(batch, estimator, rng):
    scores, counts, group, valid = batch
    found, learned = process_advantages(*batch, estimator)
    order = list(range(len(scores)))
    rng.shuffle(order)
    shuffled, also = process_advantages(scores[order], counts[order], group[order] + 7, valid[order], estimator)
    np.testing.assert_allclose(shuffled, found[order], atol=1e-12)
    np.testing.assert_array_equal(also, learned[order])
    wide = np.concatenate([scores, np.full((len(scores), 3), 0.5)], axis=1)
    np.testing.assert_array_equal(process_advantages(wide, counts, group, valid, estimator)[0][:, :4], found)


@given(batches())
@settings(max_examples=100)
def test_group_relative_advantages_sum_to_zero_and_delta_of_the_paper_as_well(batch):
    scores, counts, group, valid = batch
    final = scores[np.arange(len(scores)), counts - 1]
    valid = valid & ~np.isnan(final)
    advantages = outcome_advantages(final, group, valid)
    for name in np.unique(group):
        assert abs(advantages[group == name].sum()) < 1e-6
        members = (group == name) & valid  # one group alone, in whatever order and between whatever others
        expected = final[members] - final[members].mean() if members.sum() > 1 else np.zeros(members.sum())
        std = final[members].std(ddof=1) if members.sum() > 1 else 1.0
        np.testing.assert_allclose(advantages[members], expected / (std + 1e-6), atol=1e-9)
    assert not advantages[~valid].any()
    delta, learned = process_advantages(*batch, "delta", "paper")
    np.testing.assert_allclose(delta[learned & (counts > 1)].sum(axis=1), 0, atol=1e-12)
