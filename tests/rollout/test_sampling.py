"""Drawing one token: filters against a slow float64 version, frequencies against probabilities, keys against chance."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from extra_jax.model.numerics import entropy
from extra_jax.rollout.sampling import Draw, filter_logits, row_keys, sample
from extra_jax.rollout.types import SamplingParams

VOCAB = 9
COUNT = 20_000
MARGIN = 1e-5  # a token this close to a threshold may fall on either side of it in f32
LOGITS = np.array([2.0, 1.5, 1.5, 1.0, 0.3, 0.0, -0.5, -1.0, -2.5], np.float32)
GREEDY = SamplingParams(temperature=0.0)
PARAMS = [
    SamplingParams(),
    SamplingParams(temperature=0.5),
    SamplingParams(temperature=2.0),
    SamplingParams(top_k=4),
    SamplingParams(top_p=0.7),
    SamplingParams(min_p=0.2),
    SamplingParams(temperature=1.5, top_k=7, top_p=0.9, min_p=0.1),
]


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(np.asarray(logits, np.float64) - np.max(logits))
    return weights / weights.sum()


def slow_filter(logits: np.ndarray, params: SamplingParams) -> tuple[np.ndarray, float]:
    """Probabilities ``[V]`` of the sampling distribution, and the smallest distance of a token from a threshold."""
    probs = softmax(np.asarray(logits, np.float64) / params.temperature)
    margin = np.inf
    if params.top_k:
        threshold = sorted(probs, reverse=True)[min(params.top_k, len(probs)) - 1]
        probs = np.array([p if p >= threshold else 0.0 for p in probs])
        probs /= probs.sum()
    if params.top_p < 1:
        mass = 0.0
        for p in sorted(probs, reverse=True):
            margin = min(margin, abs(mass - params.top_p)) if p else margin
            if mass < params.top_p:
                threshold = p
            mass += p
        probs = np.array([p if p >= threshold else 0.0 for p in probs])
        probs /= probs.sum()
    if params.min_p:
        floor = params.min_p * probs.max()
        margin = min(margin, min(abs(p - floor) for p in probs if p))
        probs = np.array([p if p >= floor else 0.0 for p in probs])
        probs /= probs.sum()
    return probs, margin


@functools.cache
def draws(params: SamplingParams) -> Draw:
    """``[COUNT]`` draws of rollouts that all look at ``LOGITS``."""
    rows = jnp.broadcast_to(LOGITS, (COUNT, VOCAB))
    return jax.device_get(sample(rows, row_keys(1, 2, jnp.arange(COUNT)), jnp.full(COUNT, 3), params))


@given(
    halves=st.lists(st.integers(-8, 8), min_size=VOCAB, max_size=VOCAB),
    temperature=st.sampled_from([0.5, 1.0, 1.7]),
    top_k=st.integers(0, VOCAB + 2),
    top_p=st.sampled_from([0.05, 0.3, 0.5, 0.8, 0.99, 1.0]),
    min_p=st.sampled_from([0.0, 0.01, 0.1, 0.5, 0.9]),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_filters_keep_what_a_slow_version_keeps_ties_included(halves, temperature, top_k, top_p, min_p):
    logits = np.array(halves, np.float32) / 2  # few values: many ties
    params = SamplingParams(temperature, top_p, top_k, min_p)
    expected, margin = slow_filter(logits, params)
    assume(margin > MARGIN)
    filtered = np.asarray(filter_logits(jnp.asarray(logits)[None], params))[0]
    np.testing.assert_array_equal(np.isfinite(filtered), expected > 0)
    np.testing.assert_allclose(softmax(filtered), expected, atol=1e-6)
    assert np.isfinite(filtered[logits.argmax()])
    for token in range(VOCAB):  # equal tokens share their fate
        assert len(set(np.isfinite(filtered[logits == logits[token]]))) == 1


def test_filters_switched_off_change_nothing():
    logits = jnp.asarray(LOGITS)[None]
    np.testing.assert_array_equal(filter_logits(logits, SamplingParams()), logits)
    np.testing.assert_array_equal(filter_logits(logits, SamplingParams(top_k=VOCAB + 5)), logits)


@pytest.mark.parametrize("params", PARAMS, ids=repr)
def test_frequencies_match_probabilities(params):
    tokens = draws(params).token
    expected, _ = slow_filter(LOGITS, params)
    observed = np.bincount(tokens, minlength=VOCAB)
    assert observed[expected == 0].sum() == 0
    kept = expected > 0
    assert stats.chisquare(observed[kept], expected[kept] * COUNT).pvalue > 1e-3


@pytest.mark.parametrize("params", PARAMS, ids=repr)
def test_log_probabilities_are_of_the_sampling_distribution(params):
    tokens, logprobs = draws(params)[:2]
    expected, _ = slow_filter(LOGITS, params)
    np.testing.assert_allclose(logprobs, np.log(expected[tokens]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("params", PARAMS, ids=repr)
def test_a_learner_can_mirror_what_it_is_told(params):
    """Log-probability of the model, and the mass that the filters left over at the sampling temperature."""
    draw = draws(params)
    full = np.log(softmax(LOGITS))[draw.token]
    np.testing.assert_allclose(draw.full_logprob, full, rtol=1e-5, atol=1e-6)
    tempered = softmax(LOGITS / params.temperature)
    kept, _ = slow_filter(LOGITS, params)
    np.testing.assert_allclose(draw.filter_logprob_mass, np.log(tempered[kept > 0].sum()), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        draw.logprob + draw.filter_logprob_mass, np.log(tempered)[draw.token], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("params", PARAMS, ids=repr)
def test_entropy_is_of_the_full_distribution_whatever_the_filters(params):
    probs = softmax(LOGITS)
    np.testing.assert_allclose(draws(params).entropy, -(probs * np.log(probs)).sum(), rtol=1e-5)


@pytest.mark.parametrize("vocab", [2, 97, 151_936])
@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0, 3.0])
def test_entropy_equals_float64(vocab, scale):
    logits = (scale * np.random.default_rng(vocab).standard_normal((4, vocab))).astype(np.float32)
    for row, told in zip(logits, np.asarray(entropy(jnp.asarray(logits))), strict=True):
        probs = softmax(row)
        np.testing.assert_allclose(told, -(probs * np.log(probs)).sum(), rtol=1e-5)


@pytest.mark.parametrize("gap", [5.0, 8.0, 12.0, 20.0])
def test_entropy_of_a_nearly_certain_token_equals_float64(gap):
    """``sum(p log p)`` in f32 is wrong by a percent at a gap of 12 nats."""
    row = np.zeros(1000, np.float32)
    row[3] = gap + np.log(999)
    probs = softmax(row)
    assert float(entropy(jnp.asarray(row))) == pytest.approx(-(probs * np.log(probs)).sum(), rel=1e-5, abs=0)


def test_temperature_zero_takes_the_first_of_the_most_likely_and_scores_it_at_temperature_one():
    logits = np.array([[0.5, 2.0, 2.0, -1.0]], np.float32)
    token, logprob, *_ = sample(jnp.asarray(logits), row_keys(0, 0, jnp.arange(1)), jnp.arange(1), GREEDY)
    assert token.tolist() == [1]
    np.testing.assert_allclose(logprob, np.log(softmax(logits[0])[1]), rtol=1e-6)


def test_draws_of_different_steps_rollouts_positions_and_seeds_are_independent():
    """Any two identities agree on a token as often as chance: no sum of parts, no key used twice."""
    size, vocab = 10, 4
    grid = np.stack(np.meshgrid(*[np.arange(size)] * 3, indexing="ij"), -1)  # step, rollout, position

    def tokens(seed: int) -> np.ndarray:
        def at(step, rollout, position):
            keys = row_keys(seed, step, rollout[None])
            return sample(jnp.zeros((1, vocab)), keys, position[None], SamplingParams())[0][0]

        return np.asarray(jax.vmap(at)(*jnp.asarray(grid.reshape(-1, 3)).T)).reshape(size, size, size)

    first, second, index = tokens(0), tokens(2**32 - 1), np.arange(size**3).reshape((size,) * 3)
    shifts = [s for s in itertools.product((-2, -1, 0, 1, 2), repeat=3) if s > (0, 0, 0)]
    moves = [lambda x, s=shift: np.roll(x, s, (0, 1, 2)) for shift in shifts]
    moves += [lambda x, a=axes: x.transpose(a) for axes in [(1, 0, 2), (2, 1, 0), (0, 2, 1)]]
    matches = [(first == move(first))[index != move(index)] for move in moves] + [(first == second).ravel()]
    for same in matches:
        assert abs(same.mean() - 1 / vocab) < 5 * np.sqrt(3 / 16 / same.size)


@pytest.mark.parametrize("dropped", [False, True])
def test_draws_are_those_of_jax_random_categorical(dropped):
    random = np.random.default_rng(0)
    logits = jnp.asarray(random.standard_normal((64, 97)) * 3, jnp.float32)
    if dropped:  # as filters leave them; the last row has one token left
        logits = jnp.where(random.random(logits.shape) < 0.5, -jnp.inf, logits).at[-1].set(-jnp.inf).at[-1, 5].set(0.0)
    keys, positions = row_keys(3, jnp.uint32(7), jnp.arange(64, dtype=jnp.uint32)), jnp.arange(64)
    draw = jax.jit(lambda logits: sample(logits, keys, positions, SamplingParams(max_completion_length=1)))(logits)
    expected = [
        int(jax.random.categorical(jax.random.fold_in(key, at), row))
        for key, at, row in zip(keys, positions, logits, strict=True)
    ]
    assert draw.token.tolist() == expected
