"""``policy_hidden``: mean last hidden states come out of the scoring pass, and no other forward is made for them."""

import functools

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from learn.steps import ROWS, config, frozen_advantages, frozen_rollouts
from model.torch_qwen3 import load_ours, save_torch, torch_model
from rollout.tiny import CONFIG, graphdef, mesh, params

from explore.steps import config_with, rollouts_with
from extra_jax.learn.batch import pack_rows
from extra_jax.learn.grpo import Learner, Scored, grpo_examples
from extra_jax.learn.score import last_hidden
from extra_jax.plan.programs import describe_run
from extra_jax.rollout.types import Rollouts

SEVERAL = {"beta": 0.0, "num_iterations": 1, "num_minibatches": 2}


def last(rollouts: Rollouts, tokens: int | None = None) -> np.ndarray:
    """``[R, 2]`` the last ``tokens`` of each completion, or all of them."""
    ends = rollouts.lengths.astype(np.int64)
    return np.stack([np.zeros_like(ends) if tokens is None else np.maximum(ends - tokens, 0), ends], axis=1)


@functools.cache
def programs(mesh_name: str) -> Learner:
    return Learner(graphdef(), config(**SEVERAL), mesh(mesh_name))


class Counted(Learner):
    """Counts the forward passes that only score; the programs are compiled once a mesh."""

    def __init__(self, mesh_name: str = "1", **train: object):
        compiled = programs(mesh_name)
        self.config, self.mesh, self.passes = config(**{**SEVERAL, **train}), compiled.mesh, 0

        def score(*inputs: object) -> tuple:
            self.passes += 1
            return compiled.score(*inputs)

        self.score = score


def test_hidden_states_are_those_of_a_plain_forward_of_the_torch_model(tmp_path):
    """Behind a prompt and an injected prefix, over the last tokens of the completion and over all of it."""
    reference = torch_model()
    ours = load_ours(save_torch(reference, tmp_path))
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 96, n).tolist() for n in (3, 9, 1, 5)]
    prompts = [rng.integers(0, 96, n).tolist() for n in (4, 4, 7, 7)]
    rollouts = rollouts_with(rows, prompts=prompts, prefixes=[(), (), (5, 6, 7), (5, 6, 7)])
    learner = Learner(ours.graphdef, config(prompts_per_step=2, num_generations=2, beta=0.0), mesh())
    for seen in (99, 4):
        found = learner.scored(ours.params, rollouts, last(rollouts, seen)).hidden
        for row in range(4):
            ids = torch.tensor([[*rollouts.context_ids(row), *rows[row]]])
            with torch.no_grad():
                hidden = reference.model(ids).last_hidden_state[0, -min(len(rows[row]), seen) :].mean(0)
            np.testing.assert_allclose(found[row], hidden.numpy(), atol=2e-4)
    assert found.dtype == np.float32


def plain_means(rollouts: Rollouts, spans: np.ndarray) -> np.ndarray:
    """``[R, D]`` one sequence at a time, without packing; the mean is numpy's."""
    examples = grpo_examples(rollouts, np.zeros(len(rollouts)), np.arange(len(rollouts)), config(**SEVERAL))
    rows = pack_rows(examples, [[row] for row in range(len(examples))], 32, len(examples))
    hidden = np.asarray(jax.jit(lambda p, b: last_hidden(nnx.merge(graphdef(), p), b, "float32"))(params(), rows))
    means = []
    for row, example in enumerate(examples):
        first, end = len(example.context) + spans[row]
        means.append(hidden[row, first:end].mean(axis=0))
    return np.stack(means)


@pytest.mark.parametrize(
    ("mesh_name", "train"),
    [
        ("1", {}),
        ("1", {"row_length": 64, "micro_batch_rows": 6}),
        ("1", {"num_minibatches": 4, "row_length": 128}),
        ("8x1", {"row_length": 64}),
        ("4x2", {"micro_batch_rows": 2}),
    ],
)
def test_packing_mini_batches_and_mesh_leave_them_the_same(mesh_name, train):
    rollouts = frozen_rollouts()
    spans = last(rollouts, 5)
    found = Counted(mesh_name, **train).scored(params(mesh_name), rollouts, spans).hidden
    np.testing.assert_allclose(found, plain_means(rollouts, spans), rtol=1e-4, atol=1e-5)


def test_rows_may_hold_more_sequences_than_there_are_places_at_first():
    rollouts = frozen_rollouts()
    spans = last(rollouts)
    learner = Counted(row_length=512, num_minibatches=1, num_iterations=2)
    np.testing.assert_allclose(
        learner.scored(params(), rollouts, spans).hidden, plain_means(rollouts, spans), rtol=1e-4, atol=1e-5
    )


def test_completions_that_the_loss_leaves_out_have_a_state_too():
    rollouts = frozen_rollouts()
    spans = last(rollouts)
    found = Counted(mask_truncated_completions=True).scored(params(), rollouts, spans).hidden
    assert rollouts.truncated.any()
    np.testing.assert_allclose(found, plain_means(rollouts, spans), rtol=1e-4, atol=1e-5)


def test_one_pass_gives_the_states_and_the_old_logprobs():
    """As many passes as without novelty, and what the update learns from is the same bit for bit."""
    rollouts, advantages = frozen_rollouts(), frozen_advantages()
    plain, hidden = Counted(), Counted()
    expected = plain.batches(params(), None, rollouts, advantages)
    scored = hidden.scored(params(), rollouts, last(rollouts))
    found = hidden.batches(params(), None, rollouts, advantages, scored.logprobs)
    assert (plain.passes, hidden.passes) == (2, 2), "one a mini-batch"
    for batch, wanted in zip(found, expected, strict=True):
        assert batch.rows.old_logprobs is not None
        jax.tree.map(np.testing.assert_array_equal, batch, wanted)


@pytest.mark.parametrize("train", [{"num_minibatches": 1}, {"old_logprobs": "sampler"}])
def test_a_step_without_a_scoring_pass_makes_one_and_its_update_stays_as_it_was(train):
    rollouts, advantages = frozen_rollouts(), frozen_advantages()
    learner = Counted(**train)
    expected = learner.batches(params(), None, rollouts, advantages)
    assert learner.passes == 0
    scored = learner.scored(params(), rollouts, last(rollouts))
    found = learner.batches(params(), None, rollouts, advantages, scored.logprobs)
    assert learner.passes == learner.config.train.num_minibatches
    assert scored.hidden.shape[0] == ROWS
    for batch, wanted in zip(found, expected, strict=True):
        jax.tree.map(np.testing.assert_array_equal, batch, wanted)


def test_nobody_asks_nobody_computes():
    learner = Counted()
    assert learner.scored(params(), frozen_rollouts(), None) == Scored(None, None)
    assert learner.passes == 0


def test_an_empty_span_has_no_state():
    rollouts = frozen_rollouts()
    spans = last(rollouts)
    spans[3] = rollouts.lengths[3]
    found = Counted().scored(params(), rollouts, spans).hidden
    assert (found[3] == 0).all()
    assert (np.abs(found).sum(axis=1) > 0).sum() == ROWS - 1


def test_a_plan_counts_the_pass_and_the_weights_that_are_still_there():
    for encoder, passes in (("policy_hidden", 1), ("hashed_ngram", 0)):
        planned = config_with(
            {"bonus": {"novelty": {}}, "encoder": {"name": encoder}}, prompts_per_step=8, num_generations=2
        )
        sampling = planned.rollout.model_copy(
            update={"slots": 16, "chunk": 8, "max_prompt_length": 8, "max_completion_length": 24}
        )
        planned = planned.model_copy(update={"rollout": sampling})
        programs = {program.name: program for program in describe_run(planned, CONFIG, mesh("8x1")).programs}
        assert ("score" in programs) == bool(passes)
        if passes:
            with jax.set_mesh(mesh("8x1")):
                assert "sampler" in programs["score"].alive
                output = programs["score"].lower().out_info
            assert [len(leaf.shape) for leaf in jax.tree.leaves(output)] == [3, 4]
