"""The numbers of a step's rollouts."""

import numpy as np
import pytest

from extra_jax.reward.scores import Scores
from extra_jax.reward.verdict import Grade, Verdict
from extra_jax.telemetry.summary import rollout_metrics
from telemetry.runs import rollouts_of


def test_completions_stay_correct_where_another_reward_function_failed():
    """Two prompts with four completions; the function that failed turned all grades of the first prompt into errors."""
    correct = np.array([1, 1, 0, 1, 0, 0, 0, 0], bool)
    verdicts = [Verdict.ERROR] * 4 + [Verdict.WRONG] * 4
    grades = [Grade(verdict, None, "test") for verdict in verdicts]
    rewards = np.array([1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    scores = Scores(rewards, ~np.isnan(rewards), correct, grades)
    metrics = rollout_metrics(rollouts_of(2, 4), scores, rewards - 0.5, 4)
    assert metrics["pass_rate"] == pytest.approx(3 / 8)
    assert metrics["groups/frac_mixed"] == metrics["groups/frac_all_wrong"] == 0.5
    assert metrics["groups/frac_all_correct"] == 0.0
    assert metrics["verdicts/error"] == metrics["verdicts/wrong"] == 0.5
    assert metrics["reward"] == pytest.approx(3 / 8)
    assert metrics["reward_std"] == pytest.approx((np.std(rewards[:4], ddof=1) + 0.0) / 2)
    assert metrics["frac_reward_zero_std"] == 0.5
    assert metrics["advantages/abs_mean"] == 0.5
