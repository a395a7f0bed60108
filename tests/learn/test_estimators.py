"""The shipped estimators against slow float64 loops from the formulas, enumeration, released code and invariances."""

import itertools
import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from extra_jax.errors import ExtraError
from extra_jax.learn import estimators

PROMPTS, GROUP = 3, 5
INPUTS = ("correct", "logprobs", "lengths")
NAMES = ["grpo", "dr_grpo", "rloo", "maxrl", "pass_at_k", "w_reinforce", "unlikeliness", "ucpo"]
NEEDS = {name: INPUTS if name in ("unlikeliness", "ucpo") else () for name in NAMES} | {"w_reinforce": ("correct",)}


def slow(name: str, rewards: list[float], correct: list[bool], mean_logprobs: list[float]) -> list[float]:
    """One group without invalid members."""
    n, mean = len(rewards), math.fsum(rewards) / max(len(rewards), 1)

    def standard(values: list[float]) -> list[float]:
        if len(values) < 2:
            return [0.0] * len(values)
        return [(v - math.fsum(values) / n) / (statistics.stdev(values) + 1e-4) for v in values]

    if name == "grpo":
        return standard(rewards)
    if name == "dr_grpo":
        return [r - mean for r in rewards]
    if name == "rloo":
        return [
            r - math.fsum(rewards[:i] + rewards[i + 1 :]) / (n - 1) if n > 1 else 0.0 for i, r in enumerate(rewards)
        ]
    if name == "maxrl":
        return [(r - mean) / mean if mean > 0 else 0.0 for r in rewards]
    if name == "pass_at_k":
        return all_subsets(rewards, 4)
    if name == "w_reinforce":
        return [0.1 if c else -1.0 for c in correct]
    if name == "unlikeliness":
        order = sorted(mean_logprobs)
        ranks = [statistics.fmean(i for i, x in enumerate(order) if x == own) for own in mean_logprobs]
        lowered = [r * (1 - 0.25 * k / n) if c else r for r, c, k in zip(rewards, correct, ranks, strict=True)]
        return standard(lowered)
    chosen = [i for i in range(n) if correct[i]]
    q = {i: math.exp(mean_logprobs[i]) / math.fsum(math.exp(mean_logprobs[j]) for j in chosen) for i in chosen}
    total = math.fsum(1 / x for x in q.values())
    weights = {i: len(chosen) * (0.8 / len(chosen) + 0.2 / q[i] / total) for i in chosen}
    return [a * weights.get(i, 1.0) for i, a in enumerate(standard(rewards))]


def all_subsets(rewards: list[float], k: int) -> list[float]:
    """Every subset of ``k``: its largest reward, standardised over the subsets, averaged over those of a member."""
    subsets = list(itertools.combinations(range(len(rewards)), k))
    if not subsets:
        return [0.0] * len(rewards)
    largest = [max(rewards[i] for i in subset) for subset in subsets]
    mean, std = statistics.fmean(largest), statistics.pstdev(largest)
    worth = [(value - mean) / (std + 1e-6) for value in largest]
    return [
        statistics.fmean(w for w, subset in zip(worth, subsets, strict=True) if i in subset)
        for i in range(len(rewards))
    ]


def oracle(name: str, step: dict[str, np.ndarray]) -> np.ndarray:
    out = np.zeros(step["rewards"].shape)
    for row, valid in enumerate(step["valid"]):
        members = np.flatnonzero(valid)
        means = step["logprobs"][row] / step["lengths"][row]
        group = (step["rewards"][row], step["correct"][row], means)
        out[row, members] = slow(name, *([x[i].item() for i in members] for x in group))
    return out


def estimate(name: str, step: dict[str, np.ndarray], **settings: object) -> np.ndarray:
    extra = {key: step[key] for key in NEEDS[name]}
    return getattr(estimators, name)(step["rewards"], step["valid"], **extra, **settings)


@st.composite
def steps(draw) -> dict[str, np.ndarray]:
    """Rewards of 0, 1 and between (shaping), correct above a half; equal log-probabilities are frequent."""
    shape = (PROMPTS, GROUP)
    rewards = draw(arrays(np.float64, shape, elements=st.sampled_from([0.0, 0.0, 0.3, 0.75, 1.0, 1.0])))
    return {
        "rewards": rewards,
        "valid": draw(arrays(bool, shape, elements=st.sampled_from([True, True, True, False]))),
        "correct": rewards > 0.5,
        "logprobs": -draw(arrays(np.float64, shape, elements=st.sampled_from([0.5, 3.0, 6.0, 20.0]))),
        "lengths": draw(arrays(np.int32, shape, elements=st.integers(1, 4))),
    }


@pytest.mark.parametrize("name", NAMES)
@given(step=steps())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_estimators_equal_a_slow_version_and_never_look_at_what_is_not_valid(name, step):
    result = estimate(name, step)
    np.testing.assert_allclose(result, oracle(name, step), rtol=1e-9, atol=1e-9)
    assert result.dtype == np.float64
    assert (result[~step["valid"]] == 0).all()
    lost = {"rewards": np.where(step["valid"], step["rewards"], np.nan), "correct": step["correct"] & step["valid"]}
    np.testing.assert_array_equal(estimate(name, step | lost), result)


@pytest.mark.parametrize("name", NAMES)
@given(step=steps(), order=st.permutations(range(GROUP)), groups=st.permutations(range(PROMPTS)))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_order_and_company_do_not_matter_and_an_invalid_member_is_one_that_is_not_there(name, step, order, groups):
    result = estimate(name, step)
    shuffled = estimate(name, {key: value[groups][:, order] for key, value in step.items()})
    np.testing.assert_allclose(shuffled, result[groups][:, order], rtol=1e-9, atol=1e-12)
    alone = estimate(name, {key: value[:1] for key, value in step.items()})
    np.testing.assert_array_equal(alone, result[:1])
    smaller = {"k": 3} if name == "pass_at_k" else {}
    step["valid"][:, 0] = False
    without = estimate(name, {key: value[:, 1:] for key, value in step.items()}, **smaller)
    with_it = estimate(name, step, **smaller)
    np.testing.assert_allclose(with_it[:, 1:], without, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "w_reinforce"])
@pytest.mark.parametrize("reward", [0.0, 0.1, 1 / 3, 1e6 + 0.1])
def test_a_group_of_equal_rewards_gets_exactly_zero(name, reward):
    shape = (1, GROUP)
    step = {
        "rewards": np.full(shape, reward),
        "valid": np.ones(shape, bool),
        "correct": np.zeros(shape, bool),
        "logprobs": -np.arange(1.0, 6.0)[None],
        "lengths": np.ones(shape, int),
    }
    assert (estimate(name, step) == 0).all()


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@given(rewards=arrays(np.float64, (1, 7), elements=st.sampled_from([0.0, 0.2, 1.0, -1.0])))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_pass_at_k_equals_the_enumeration_of_all_subsets(k, rewards):
    result = estimators.pass_at_k(rewards, np.ones((1, 7), bool), k)
    np.testing.assert_allclose(result[0], all_subsets(rewards[0].tolist(), k), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("n", "k"), [(8, 4), (16, 8), (32, 8), (128, 64)])
def test_pass_at_k_of_right_and_wrong_is_the_closed_form_of_the_paper(n, k):
    """``calc_adv`` of the released code, in exact integers."""
    for c in range(n + 1):
        result = estimators.pass_at_k((np.arange(n) < c).astype(float)[None], np.ones((1, n), bool), k)[0]
        rho = 1 - math.comb(n - c, k) / math.comb(n, k)
        sigma = math.sqrt(rho * (1 - rho)) + 1e-6
        np.testing.assert_allclose(result[:c], (1 - rho) / sigma, rtol=1e-6, atol=1e-9)
        if c < n:
            wrong = (1 - rho - math.comb(n - c - 1, k - 1) / math.comb(n - 1, k - 1)) / sigma
            np.testing.assert_allclose(result[c:], wrong, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("k", [0, 5, 8])
def test_pass_at_k_refuses_a_k_from_which_nothing_is_learned(k):
    with pytest.raises(ExtraError, match=f"k={k} learns nothing from groups of 5"):
        estimators.pass_at_k(np.zeros((1, 5)), np.ones((1, 5), bool), k)


@pytest.mark.parametrize("n", [2, 3, 8])
@pytest.mark.parametrize("p", [0.05, 0.5, 0.9])
def test_maxrl_is_on_average_the_gradient_of_the_sum_of_pass_at_k_over_k(n, p):
    """Over all outcomes of ``n`` draws; the score of a success is 1 / p and of a failure -1 / (1 - p)."""
    total = 0.0
    for c in range(n + 1):
        advantages = estimators.maxrl((np.arange(n) < c).astype(float)[None], np.ones((1, n), bool))[0]
        score = np.where(np.arange(n) < c, 1 / p, -1 / (1 - p))
        total += math.comb(n, c) * p**c * (1 - p) ** (n - c) * (advantages * score).mean()
    assert total == pytest.approx(sum((1 - p) ** (k - 1) for k in range(1, n)))  # d pass@k / dp = k (1 - p)^(k-1)


def test_maxrl_refuses_negative_rewards():
    with pytest.raises(ExtraError, match="rewards of 0 or more"):
        estimators.maxrl(np.array([[-1.0, 1.0]]), np.ones((1, 2), bool))
    estimators.maxrl(np.array([[-1.0, 1.0]]), np.array([[False, True]]))


def test_ucpo_moves_advantage_to_unlikely_correct_completions_and_keeps_their_sum():
    rewards = np.array([[1.0, 1.0, 1.0, 0.0]])
    valid, lengths = np.ones((1, 4), bool), np.full((1, 4), 2)
    logprobs = np.array([[-8.0, -4.0, -2.0, -1.0]])
    plain = estimators.grpo(rewards, valid)
    result = estimators.ucpo(rewards, valid, rewards > 0, logprobs, lengths, tau=1.0)
    assert result[0, 0] > result[0, 1] > result[0, 2] > 0
    assert result[0, 3] == plain[0, 3]
    assert result[0, :3].sum() == pytest.approx(plain[0, :3].sum())
    assert result[0, 0] / result[0, 2] == pytest.approx(math.exp(4.0 - 1.0))  # as 1 / q, of mean log-probabilities
    np.testing.assert_array_equal(estimators.ucpo(rewards, valid, rewards > 0, logprobs, lengths, tau=0.0), plain)


def test_unlikeliness_pays_the_rarest_correct_completion_most():
    rewards, valid, lengths = np.array([[1.0, 1.0, 1.0, 0.0]]), np.ones((1, 4), bool), np.ones((1, 4))
    logprobs = np.array([[-3.0, -9.0, -1.0, -5.0]])
    result = estimators.unlikeliness(rewards, valid, rewards > 0, logprobs, lengths, epsilon=0.0)
    lowered = np.array([[1 - 0.25 * 2 / 4, 1.0, 1 - 0.25 * 3 / 4, 0.0]])
    np.testing.assert_allclose(result, estimators.grpo(lowered, valid, epsilon=0.0))
