"""Overlong shaping against the formula of DAPO, one length at a time."""

import numpy as np
import pytest

from extra_jax.config import config_from_dict
from extra_jax.errors import ExtraError
from extra_jax.reward.shaping import soft_overlong_punishment


def of_dapo(length: int, longest: int, cache: int) -> float:
    """Eq. 13, as printed."""
    if length <= longest - cache:
        return 0.0
    if length <= longest:
        return ((longest - cache) - length) / cache
    return -1.0


@pytest.mark.parametrize(("longest", "cache"), [(100, 20), (7, 7), (10, 1)])
def test_the_punishment_is_that_of_dapo_at_every_length(longest, cache):
    lengths = np.arange(1, longest + 1)
    told = soft_overlong_punishment(lengths, longest, cache)
    assert told.tolist() == pytest.approx([of_dapo(length, longest, cache) for length in lengths])
    assert told[-1] == -1


def test_a_cache_of_zero_punishes_nothing():
    assert not soft_overlong_punishment(np.arange(9), 8, 0).any()


def test_a_cache_longer_than_a_completion_is_refused():
    tree = {"model": {"preset": "tiny"}, "rollout": {"max_completion_length": 8}, "reward": {"soft_punish_cache": 9}}
    with pytest.raises(ExtraError, match=r"soft_punish_cache=9 exceeds rollout\.max_completion_length=8"):
        config_from_dict(tree)
