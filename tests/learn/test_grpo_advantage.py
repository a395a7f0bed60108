"""Group advantages against a slow version and against golden values of the released ExTra code."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from extra_jax.learn.estimators import grpo
from learn import oracle

SCALES = ["group", "batch", "none"]
GOLDEN = {  # docs/methods/extra.md, 1: advantage of a correct one of n, k correct, rewards +-1; without the 1e-4
    4: [1.5, 0.866, 0.5],
    6: [2.041, 1.291, 0.913, 0.645, 0.408],
    8: [2.475, 1.62, 1.208, 0.935, 0.725, 0.54, 0.354],
}


@pytest.mark.parametrize("size", GOLDEN)
def test_a_correct_member_gets_the_golden_advantage(size):
    for correct, expected in enumerate(GOLDEN[size], start=1):
        rewards = np.where(np.arange(size) < correct, 1.0, -1.0)[None]
        told = grpo(rewards, np.ones((1, size), bool))[0]
        assert told[0] == pytest.approx(expected, abs=1e-3)
        assert told.sum() == pytest.approx(0, abs=1e-12)
        assert len(set(told[:correct])) == len(set(told[correct:])) == 1


@pytest.mark.parametrize("scale", SCALES)
@given(
    rewards=arrays(np.float64, (3, 5), elements=st.floats(-10, 10, width=32)),
    valid=arrays(bool, (3, 5)),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_advantages_equal_a_slow_version_and_rows_that_do_not_count_get_zero(scale, rewards, valid):
    told = grpo(rewards, valid, scale)
    np.testing.assert_allclose(told, oracle.advantages(rewards, valid, scale), rtol=1e-9, atol=1e-9)
    assert (told[~valid] == 0).all()
    assert told.dtype == np.float64
    rewards = np.where(valid, rewards, np.nan)  # what a grader that failed reports is never looked at
    np.testing.assert_array_equal(grpo(rewards, valid, scale), told)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("reward", [0.0, 0.1, 1 / 3, -0.7, 1e6 + 0.1])
@pytest.mark.parametrize("size", [3, 7, 8])
def test_a_group_of_equal_rewards_gets_exactly_zero(scale, reward, size):
    """Judge scores are no binary fractions: the rounding of their mean must not become a gradient."""
    rewards = np.stack([np.full(size, reward), np.arange(size)])
    told = grpo(rewards, np.ones((2, size), bool), scale)
    assert (told[0] == 0).all()
    assert (told[1] != 0).any()


def test_groups_do_not_look_at_each_other_unless_asked():
    rewards = np.array([[1.0, 0.0, 0.0], [5.0, -3.0, 2.0]])
    valid = np.ones((2, 3), bool)
    for scale in ("group", "none"):
        np.testing.assert_array_equal(grpo(rewards, valid, scale)[:1], grpo(rewards[:1], valid[:1], scale))
    together = grpo(rewards, valid, "batch")
    assert together[0, 0] == pytest.approx((1 - 1 / 3) / (np.std(rewards, ddof=1) + 1e-4))
