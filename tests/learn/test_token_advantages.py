"""Advantages that differ from token to token, and the ratio against the log-probabilities that the sampler stored."""

import jax
import numpy as np
from rollout.tiny import params

from learn.steps import PLAIN, ROWS, frozen_advantages, frozen_rollouts, plain_learner, with_train


def batches_of(advantages, **train):
    learner = with_train(plain_learner(), **(PLAIN | train))
    return learner.batches(params(), None, frozen_rollouts(), advantages)


def test_one_number_for_all_tokens_is_the_same_as_that_number_for_each():
    rollouts, each = frozen_rollouts(), frozen_advantages()
    (one,), (many,) = batches_of(each), batches_of([np.full(n, a) for n, a in zip(rollouts.lengths, each, strict=True)])
    jax.tree.map(np.testing.assert_array_equal, one, many)


def test_every_token_gets_its_own_advantage():
    rollouts, random = frozen_rollouts(), np.random.default_rng(3)
    advantages = [random.standard_normal(n).astype(np.float32) for n in rollouts.lengths]
    (batch,) = batches_of(advantages)
    rows = batch.rows
    found = {}
    for place in zip(*np.nonzero(np.asarray(rows.weights)), strict=True):
        found[float(rows.sampling_logprobs[place])] = (int(rows.tokens[place]), float(rows.advantages[place]))
    assert len(found) == rollouts.lengths.sum()  # the log-probability of a token is as good as its name here
    for row in range(ROWS):
        for t in range(rollouts.lengths[row]):
            token, advantage = found[float(rollouts.logprobs[row, t])]
            assert (token, advantage) == (rollouts.tokens[row, t], advantages[row][t])


def test_the_ratio_can_be_taken_against_the_sampler():
    (batch,) = batches_of(frozen_advantages(), old_logprobs="sampler", num_iterations=2)
    np.testing.assert_array_equal(batch.rows.old_logprobs, batch.rows.sampling_logprobs)
    (batch,) = batches_of(frozen_advantages(), old_logprobs="learner")
    assert batch.rows.old_logprobs is None
