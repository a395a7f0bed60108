"""``policy_hidden``: mean last hidden states come out of the scoring pass, and no other forward is made for them."""

import functools

import jax
import numpy as np
import pytest
import torch
from extra_jax.explore.hidden import token_spans
from flax import nnx
from learn.steps import ROWS, config, frozen_advantages, frozen_rollouts
from model.torch_qwen3 import load_ours, save_torch, torch_model
from rollout.tiny import CONFIG, graphdef, mesh, params

from explore.steps import config_of
from extra_jax.config import NoveltyConfig
from extra_jax.data.tokenizer import load_tokenizer
from extra_jax.errors import ExtraError
from extra_jax.explore.encoders import novelty_text
from extra_jax.learn.batch import pack_rows
from extra_jax.learn.grpo import Learner, Scored, grpo_examples
from extra_jax.learn.score import last_hidden
from extra_jax.plan.programs import describe_run
from extra_jax.rollout.types import Rollouts, StopReason

TOKENIZER = load_tokenizer("tiny")
SEVERAL = {"beta": 0.0, "num_iterations": 1, "num_minibatches": 2}


def rollouts_of(rows: list[list[int]], prefixes: list[tuple[int, ...]] | None = None) -> Rollouts:
    """Completions behind random prompts."""
    rng, count, longest = np.random.default_rng(0), len(rows), max(map(len, rows))
    tokens = np.zeros((count, longest), np.int32)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = row
    numbers = np.zeros((count, longest), np.float32)
    return Rollouts(
        rollout_ids=np.arange(count),
        prompt_index=np.arange(count, dtype=np.int32),
        prompt_ids=[rng.integers(0, 96, n) for n in rng.integers(1, 8, count)],
        tokens=tokens,
        lengths=np.array([len(row) for row in rows], np.int32),
        logprobs=numbers,
        entropies=numbers,
        stop_reasons=[StopReason.STOP_TOKEN] * count,
        prefix_ids=[np.array(prefix, int) for prefix in prefixes or [()] * count],
        full_logprobs=numbers,
        filter_logprob_mass=numbers,
    )


def spans_of(rollouts: Rollouts, **novelty: object) -> np.ndarray:
    return token_spans(rollouts, TOKENIZER, NoveltyConfig(**novelty))


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
    rollouts = rollouts_of(rows, [(), (), (5, 6, 7), (5, 6, 7)])
    learner = Learner(ours.graphdef, config(prompts_per_step=2, num_generations=2, beta=0.0), mesh())
    for novelty, seen in (({"text_span": "full"}, 99), ({"span_tokens": 4}, 4)):
        found = learner.scored(ours.params, rollouts, spans_of(rollouts, **novelty)).hidden
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
    spans = spans_of(rollouts, span_tokens=5)
    found = Counted(mesh_name, **train).scored(params(mesh_name), rollouts, spans).hidden
    np.testing.assert_allclose(found, plain_means(rollouts, spans), rtol=1e-4, atol=1e-5)


def test_rows_may_hold_more_sequences_than_there_are_places_at_first():
    rollouts = frozen_rollouts()
    spans = spans_of(rollouts, text_span="full")
    learner = Counted(row_length=512, num_minibatches=1, num_iterations=2)
    np.testing.assert_allclose(
        learner.scored(params(), rollouts, spans).hidden, plain_means(rollouts, spans), rtol=1e-4, atol=1e-5
    )


def test_completions_that_the_loss_leaves_out_have_a_state_too():
    rollouts = frozen_rollouts()
    spans = spans_of(rollouts, text_span="full")
    found = Counted(mask_truncated_completions=True).scored(params(), rollouts, spans).hidden
    assert rollouts.truncated.any()
    np.testing.assert_allclose(found, plain_means(rollouts, spans), rtol=1e-4, atol=1e-5)


def test_one_pass_gives_the_states_and_the_old_logprobs():
    """As many passes as without novelty, and what the update learns from is the same bit for bit."""
    rollouts, advantages = frozen_rollouts(), frozen_advantages()
    plain, hidden = Counted(), Counted()
    expected = plain.batches(params(), None, rollouts, advantages)
    scored = hidden.scored(params(), rollouts, spans_of(rollouts))
    found = hidden.batches(params(), None, rollouts, advantages, scored.logprobs)
    assert (plain.passes, hidden.passes) == (2, 2), "one a mini-batch"
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.rows.old_logprobs is not None
        jax.tree.map(np.testing.assert_array_equal, mine, theirs)


@pytest.mark.parametrize("train", [{"num_minibatches": 1}, {"old_logprobs": "sampler"}])
def test_a_step_without_a_scoring_pass_makes_one_and_its_update_stays_as_it_was(train):
    rollouts, advantages = frozen_rollouts(), frozen_advantages()
    learner = Counted(**train)
    expected = learner.batches(params(), None, rollouts, advantages)
    assert learner.passes == 0
    scored = learner.scored(params(), rollouts, spans_of(rollouts))
    found = learner.batches(params(), None, rollouts, advantages, scored.logprobs)
    assert learner.passes == learner.config.train.num_minibatches
    assert scored.hidden.shape[0] == ROWS
    for mine, theirs in zip(found, expected, strict=True):
        jax.tree.map(np.testing.assert_array_equal, mine, theirs)


def test_nobody_asks_nobody_computes():
    learner = Counted()
    assert learner.scored(params(), frozen_rollouts(), None) == Scored(None, None)
    assert learner.passes == 0


@pytest.mark.parametrize("novelty", [{"text_span": "full"}, {"span_tokens": 5}, {"text_span": "after_think"}])
def test_the_tokens_are_those_of_the_text_that_other_encoders_see(novelty):
    texts = ["12+3=15\n", "</think>7*8=56\n", "1+2=3\n</think>4\n</think>\n5+6=11\n", "9+1</think>"]
    rows = [TOKENIZER.encode_target(text)[: None if "\n" in text else -1] for text in texts]
    rollouts, settings = rollouts_of(rows), NoveltyConfig(**novelty)
    for row, (first, end) in enumerate(token_spans(rollouts, TOKENIZER, settings)):
        ids = rollouts.completion_ids(row)
        assert TOKENIZER.decode(ids[first:end].tolist()) == novelty_text(ids, TOKENIZER, settings)


def test_an_empty_span_has_no_state():
    rollouts = frozen_rollouts()
    spans = spans_of(rollouts)
    spans[3] = rollouts.lengths[3]
    found = Counted().scored(params(), rollouts, spans).hidden
    assert (found[3] == 0).all()
    assert (np.abs(found).sum(axis=1) > 0).sum() == ROWS - 1


def test_a_plan_counts_the_pass_and_the_weights_that_are_still_there():
    for encoder, passes in (("policy_hidden", 1), ("hashed_ngram", 0)):
        planned = config_of({"arm": "N1", "encoder": {"name": encoder}}, prompts_per_step=8, num_generations=2)
        sampling = planned.rollout.model_copy(
            update={"slots": 16, "chunk": 8, "max_prompt_length": 8, "max_completion_length": 24}
        )
        planned = planned.model_copy(update={"rollout": sampling})
        programs = {program.name: program for program in describe_run(planned, CONFIG, mesh("8x1")).programs}
        assert ("score" in programs) == bool(passes)
        if passes:
            with jax.set_mesh(mesh("8x1")):
                assert "sampler" in programs["score"].alive
                told = programs["score"].lower().out_info
            assert [len(leaf.shape) for leaf in jax.tree.leaves(told)] == [3, 4]


def test_masking_the_answer_is_refused():
    explore = {"arm": "N1", "encoder": {"name": "policy_hidden"}, "novelty": {"mask_answer": True}}
    with pytest.raises(ExtraError, match="mask_answer=false or another encoder"):
        config_of(explore)
