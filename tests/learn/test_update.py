"""One GRPO step on a frozen batch: what it may depend on, and what it may not."""

import math
import re

import jax
import numpy as np
import pytest
from rollout.tiny import CONFIG, MESHES, graphdef, sequences

from extra_jax.learn import packing, score
from extra_jax.learn.batch import MicroBatches
from extra_jax.learn.grpo import Learner
from learn.steps import (
    EVERY_OPTION,
    GROUP,
    ONE_MICRO_BATCH,
    PLAIN,
    PROMPTS,
    ROWS,
    frozen_advantages,
    frozen_rollouts,
    full_learner,
    largest_difference,
    learner,
    params,
    plain_learner,
    reference,
    reordered,
    run_step,
    with_train,
)

SAME = 1e-5


@pytest.fixture(scope="module")
def frozen():
    """Parameters and metrics of the step that the others are compared with: packed rows of 20 tokens, one at a time."""
    return run_step(learner())


@pytest.fixture(scope="module")
def frozen_full():
    """The same with GSPO, correction for the sampler, entropy bonus and entropy quantile."""
    return run_step(full_learner())


def assert_same_step(frozen, other):
    (params_, told), (other_params, other_told) = frozen, other
    assert largest_difference(params_, other_params) <= SAME
    for one, two in zip(told, other_told, strict=True):
        assert one == pytest.approx(two, rel=1e-3, abs=1e-5)


def test_the_step_moves_the_parameters_by_far_more_than_the_tolerance(frozen):
    assert largest_difference(frozen[0], jax.tree.map(np.asarray, params())) > 100 * SAME


def test_the_options_that_look_beyond_a_token_change_the_step(frozen, frozen_full):
    assert largest_difference(frozen[0], frozen_full[0]) > 100 * SAME


def test_the_update_does_not_depend_on_rows_and_micro_batches(frozen, frozen_full):
    assert_same_step(frozen, run_step(with_train(learner(), **ONE_MICRO_BATCH)))
    assert_same_step(frozen_full, run_step(with_train(full_learner(), **EVERY_OPTION, **ONE_MICRO_BATCH)))


def test_the_update_does_not_depend_on_contexts_being_shared(frozen, frozen_full, monkeypatch):
    """Each rollout with its own prompt, as if rows were too long; fewer tokens where prompts are shared."""

    def stored(of: Learner) -> int:
        (batch,) = of.batches(params(), reference(), frozen_rollouts(), frozen_advantages())
        return int((np.asarray(batch.rows.segment_ids) > 0).sum())

    wide = with_train(learner(), **ONE_MICRO_BATCH)
    wide_full = with_train(full_learner(), **EVERY_OPTION, **ONE_MICRO_BATCH)
    shared = stored(wide)
    monkeypatch.setattr(packing, "MAX_SHARING_ROW", 0)
    assert stored(wide) == sum(map(len, sequences(frozen_rollouts()))) > 1.1 * shared
    assert_same_step(frozen, run_step(wide))
    assert_same_step(frozen_full, run_step(wide_full))


def test_the_update_does_not_depend_on_the_order_of_rollouts(frozen, frozen_full):
    order = np.random.default_rng(0).permutation(ROWS)
    rollouts, advantages = reordered(frozen_rollouts(), order), frozen_advantages()[order]
    assert_same_step(frozen, run_step(learner(), rollouts, advantages))
    assert_same_step(frozen_full, run_step(full_learner(), rollouts, advantages))


@pytest.mark.parametrize("name", [name for name in MESHES if name != "1"])
def test_the_update_does_not_depend_on_the_mesh(frozen, frozen_full, name):
    if name == "8x1":
        assert_same_step(frozen, run_step(learner(name), mesh_name=name))
    else:
        assert_same_step(frozen_full, run_step(full_learner(name), mesh_name=name))


@pytest.mark.parametrize("remat", ["none", "dots"])
def test_the_update_does_not_depend_on_what_is_recomputed(frozen_full, remat):
    if remat == "none":
        assert_same_step(frozen_full, run_step(full_learner(remat=remat)))
    else:
        assert_same_step(run_step(plain_learner()), run_step(plain_learner(remat)))


def test_the_same_step_twice_is_bit_identical(frozen):
    assert largest_difference(frozen[0], run_step(learner())[0]) == 0


def test_bnpo_depends_on_micro_batches_and_the_others_do_not():
    for loss_type in ("dr_grpo", "dapo", "bnpo"):
        one = run_step(with_train(learner(), loss_type=loss_type))[0]
        other = run_step(with_train(learner(), loss_type=loss_type, **ONE_MICRO_BATCH))[0]
        assert (largest_difference(one, other) <= SAME) == (loss_type != "bnpo")


def test_the_first_of_two_iterations_has_ratio_one_and_the_second_does_not(frozen):
    first, second = frozen[1]
    clips = ["clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean"]
    assert [first[name] for name in clips] == [0, 0, 0]
    assert all(second[name] > 0 for name in clips)
    assert second["clip_ratio/region_mean"] == pytest.approx(second[clips[0]] + second[clips[1]])
    # rho = 1: the surrogate of a token is its advantage, a sequence's mean too
    kl = first["loss"] + frozen_advantages().mean()
    assert kl > 0
    assert 0 < second["grad_norm"] != first["grad_norm"]


def test_truncated_completions_leave_no_trace_when_masked():
    masked = with_train(learner(), mask_truncated_completions=True)
    rollouts, advantages = frozen_rollouts(), frozen_advantages()
    expected, told = run_step(masked, rollouts, advantages)
    rollouts.tokens[rollouts.truncated] = 5
    rollouts.logprobs[rollouts.truncated] = -3
    advantages[rollouts.truncated] = 1e6
    other, other_told = run_step(masked, rollouts, advantages)
    assert largest_difference(expected, other) == 0
    assert told == other_told


def test_prompt_tokens_get_no_gradient_of_their_own():
    """Whatever stands beside a prompt token or padding in the batch, the step is the same to the last bit."""
    of = learner()
    (batch,) = of.batches(params(), reference(), frozen_rollouts(), frozen_advantages())
    outside = np.asarray(batch.rows.weights) == 0
    assert outside.sum() > PROMPTS * GROUP
    noise = {
        name: jax.device_put(np.where(outside, -7.5, np.asarray(column)), column.sharding)
        for name in ("advantages", "sampling_logprobs", "old_logprobs", "ref_logprobs")
        for column in [getattr(batch.rows, name)]
    }
    spoiled = MicroBatches(batch.rows._replace(**noise), batch.count)
    one, told = of.update(of.init(params()), batch)
    other, other_told = of.update(of.init(params()), spoiled)
    assert largest_difference(*(jax.tree.map(np.asarray, state.params) for state in (one, other))) == 0
    assert jax.device_get(told) == jax.device_get(other_told)


def test_no_buffer_of_the_update_has_both_the_row_and_the_vocabulary(monkeypatch):
    """In the optimized program, forward and backward, whatever a reshape may have made of the axes."""
    length, chunk, vocab = 41, 7, CONFIG.vocab_size  # no other axis and no product of axes has these sizes
    monkeypatch.setattr(score, "_CHUNK_LOGITS", chunk * vocab)
    of = with_train(plain_learner(), row_length=length, **PLAIN)
    (batches,) = of.batches(params(), None, frozen_rollouts(), frozen_advantages())
    fresh = Learner(graphdef(), of.config, of.mesh)
    with jax.set_mesh(fresh.mesh):
        text = fresh.update.program.lower(fresh.init(params()), batches).compile().as_text()
    shapes = {tuple(map(int, shape.split(","))) for shape in re.findall(r"\b[a-z]+\d*\[([\d,]+)\]", text)}
    assert any(length in shape for shape in shapes)
    with_vocabulary = [shape for shape in shapes if any(size % vocab == 0 for size in shape)]
    assert with_vocabulary
    allowed = max(chunk, CONFIG.hidden_size) * vocab
    assert max(math.prod(shape) for shape in with_vocabulary) <= allowed


def test_zero_advantages_without_kl_leave_the_parameters_as_they_are():
    new, told = run_step(plain_learner(), advantages=np.zeros(ROWS))
    assert largest_difference(new, jax.tree.map(np.asarray, params())) == 0
    assert told[0]["grad_norm"] == 0
    assert told[0]["loss"] == 0


def test_minibatches_hold_whole_groups_and_every_rollout_once():
    rollouts = frozen_rollouts()
    rollouts.tokens[:, 0] = np.arange(ROWS)  # a token that names its rollout
    batches = with_train(learner(), num_minibatches=2).batches(params(), None, rollouts, frozen_advantages())
    seen = []
    for index, batch in enumerate(batches):
        weights, tokens = (np.asarray(x) for x in (batch.rows.weights, batch.rows.tokens))
        first = (weights > 0) & (np.pad(weights, ((0, 0), (0, 0), (1, 0)))[:, :, :-1] == 0)
        members = sorted(tokens[first].tolist())
        assert members == [row for row in range(ROWS) if rollouts.prompt_index[row] % 2 == index]
        seen += members
    assert sorted(seen) == list(range(ROWS))
