"""Scoring tokens: packing, chunks and temperature change nothing but what they say; ``[B, T, V]`` never exists."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from rollout.tiny import CONFIG, graphdef, mesh, params, sequences

from extra_jax.config import MeshConfig
from extra_jax.learn import score
from extra_jax.learn.batch import Example, TokenBatch, pack_rows
from extra_jax.learn.packing import best_fit
from extra_jax.model.qwen3 import Qwen3
from extra_jax.parallel.mesh import make_mesh
from extra_jax.parallel.sharding import TRAIN, batch_sharding, param_shardings
from learn.steps import frozen_rollouts

LENGTH = 41  # a prime, and a length that no other axis has
VOCAB = CONFIG.vocab_size
CHUNK = 7  # positions; the last chunk is not full


def packed() -> tuple[TokenBatch, list[list[int]]]:
    examples = [Example(s[:1], s[1:], 1.0) for s in sequences(frozen_rollouts())]
    layout = best_fit([len(example) for example in examples], LENGTH)
    return pack_rows(examples, layout, LENGTH, len(layout) + 1), layout


def scorer(batch: TokenBatch, temperature: float = 1.0):
    """A function of the parameters, to be compiled under the chunk budget of the moment."""

    def scores(weights: nnx.State) -> tuple[jax.Array, jax.Array]:
        model = nnx.merge(graphdef(), weights)
        return score.token_logprobs(model, batch, temperature=temperature, dtype="float32")

    return scores


def graded(batch: TokenBatch):
    """Gradient of a sum over log-probabilities in which every token counts differently."""
    importance = np.random.default_rng(0).standard_normal(batch.tokens.shape).astype(np.float32)

    def loss(weights: nnx.State) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        told = scorer(batch)(weights)
        return jnp.sum(told[0] * importance), told

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@pytest.fixture(scope="module")
def whole():
    """One chunk: compiled program, value and gradient."""
    batch, _ = packed()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(score, "chunk_length", lambda positions, vocab_size: positions)
        program = graded(batch).lower(params()).compile()
    return program, jax.device_get(program(params()))


@pytest.fixture(scope="module")
def chunked():
    batch, _ = packed()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(score, "_CHUNK_LOGITS", CHUNK * VOCAB)
        program = graded(batch).lower(params()).compile()
    return program, jax.device_get(program(params()))


def test_chunks_change_neither_scores_nor_gradient(whole, chunked):
    ((_, one), gradient), ((_, other), other_gradient) = whole[1], chunked[1]
    np.testing.assert_allclose(other[0], one[0], atol=1e-5)
    np.testing.assert_allclose(other[1], one[1], atol=1e-5)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(other_gradient), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * max(1, np.abs(a).max()))


def buffers_with_the_vocabulary(program: jax.stages.Compiled) -> set[tuple[int, ...]]:
    """Shapes that appear anywhere in the optimized program, forward and backward, and have an axis of ``V``."""
    shapes = re.findall(r"\b[a-z]+\d*\[([\d,]+)\]", program.as_text())
    parsed = {tuple(map(int, shape.split(","))) for shape in shapes}
    return {shape for shape in parsed if VOCAB in shape or any(n % VOCAB == 0 and n > VOCAB for n in shape)}


def test_no_buffer_has_both_length_and_vocabulary_when_chunked(whole, chunked):
    rows = packed()[0].tokens.shape[0]
    full, limit = rows * LENGTH * VOCAB, CHUNK * VOCAB
    assert max(np.prod(shape) for shape in buffers_with_the_vocabulary(whole[0])) >= full  # the search finds it
    seen = buffers_with_the_vocabulary(chunked[0])
    assert seen
    assert max(np.prod(shape) for shape in seen) <= max(limit, VOCAB * CONFIG.hidden_size)
    assert not any(VOCAB in shape and LENGTH in shape for shape in seen)


def test_scores_do_not_depend_on_the_company_in_a_row(whole):
    (_, (logprobs, entropies)), _ = whole[1]
    batch, layout = packed()
    alone_length = 20
    examples = [Example(s[:1], s[1:], 1.0) for s in sequences(frozen_rollouts())]
    alone = pack_rows(examples, [[index] for index in range(len(examples))], alone_length, len(examples))
    one, entropy = jax.device_get(jax.jit(scorer(alone))(params()))
    for row, members in enumerate(layout):
        for segment, index in enumerate(members, start=1):
            here, size = batch.segment_ids[row] == segment, len(examples[index])
            np.testing.assert_allclose(logprobs[row, here], one[index, :size], atol=1e-5)
            np.testing.assert_allclose(entropies[row, here], entropy[index, :size], atol=1e-5)


@pytest.mark.parametrize("travel", [True, False])
@pytest.mark.parametrize(("axes", "tied"), [((1, 4, 2), True), ((2, 2, 2), False)])
def test_what_travels_to_the_head_changes_neither_scores_nor_gradient(axes, tied, travel, monkeypatch):
    """72 tokens divide over ``fsdp`` x ``tensor``; the vocabulary of the other tests does not."""
    monkeypatch.setattr(score, "shard_vocab_over_fsdp", lambda *_: travel)
    config = dataclasses.replace(CONFIG, vocab_size=72, num_hidden_layers=1, tie_word_embeddings=tied)
    monkeypatch.setattr(score, "_CHUNK_LOGITS", CHUNK * config.vocab_size)
    _, layout = packed()
    batch = pack_rows([Example(s[:1], s[1:], 1.0) for s in sequences(frozen_rollouts())], layout, LENGTH, 8)
    structure, shapes = nnx.split(nnx.eval_shape(lambda: Qwen3(config, rngs=nnx.Rngs(0), remat="none")))
    random = np.random.default_rng(0)
    start = jax.tree.map(lambda x: 0.3 * random.standard_normal(x.shape, np.float32), shapes)
    importance = random.standard_normal(batch.tokens.shape, np.float32)

    def loss(weights: nnx.State, rows: TokenBatch) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        how = {"temperature": 0.7, "dtype": "float32", "entropy_gradient": True}
        told = score.token_logprobs(nnx.merge(structure, weights), rows, **how)
        return jnp.sum(told[0] * importance) + jnp.sum(told[1]), told

    def run(on: jax.sharding.Mesh) -> list[np.ndarray]:
        weights = jax.tree.map(jax.device_put, start, param_shardings(shapes, on, TRAIN))
        with jax.set_mesh(on):
            rows = jax.tree.map(lambda x: jax.device_put(x, batch_sharding(on)), batch)
            (_, scores), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(weights, rows)
        return jax.device_get([*scores, *jax.tree.leaves(gradient)])

    split = make_mesh(MeshConfig(data=axes[0], fsdp=axes[1], tensor=axes[2]))
    for one, other in zip(run(split), run(mesh()), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4 * max(1, np.abs(other).max()))


def test_first_tokens_and_padding_score_zero(whole):
    (_, (logprobs, entropies)), _ = whole[1]
    batch, _ = packed()
    outside = (batch.positions == 0) | (batch.segment_ids == 0)
    assert not logprobs[outside].any()
    assert not entropies[outside].any()
    assert (logprobs[~outside] < 0).all()
    assert (entropies[~outside] > 0).all()


def test_an_empty_row_keeps_the_gradient_finite(whole):
    batch, layout = packed()
    assert not batch.segment_ids[len(layout) :].any()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(whole[1][1]))


@pytest.mark.parametrize("temperature", [0.5, 0.0])
def test_temperature_scales_log_probabilities_and_not_entropies(whole, temperature):
    (_, (_, entropies)), _ = whole[1]
    batch, _ = packed()
    model = nnx.merge(graphdef(), params())
    hidden, _ = model(batch.tokens, batch.positions, segment_ids=batch.segment_ids)
    logits = np.asarray(model.logits(hidden), np.float64) / (temperature or 1.0)
    expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    told, told_entropies = jax.device_get(jax.jit(scorer(batch, temperature))(params()))
    scored = (batch.positions > 0) & (batch.segment_ids > 0)
    for row, column in np.argwhere(scored)[::5]:
        token = batch.tokens[row, column]
        assert told[row, column] == pytest.approx(expected[row, column - 1, token], abs=1e-4)
    np.testing.assert_allclose(told_entropies, entropies, atol=1e-5)


@pytest.mark.parametrize("positions", [1, 10, 129, 8 * 4096, 256 * 16_384])
@pytest.mark.parametrize("vocab", [64, 151_936, 10**8])
def test_chunks_are_at_least_one_position_and_within_the_budget(positions, vocab):
    chunk = score.chunk_length(positions, vocab)
    assert 1 <= chunk <= positions
    assert chunk == 1 or chunk * vocab <= score._CHUNK_LOGITS
    assert chunk <= max(128, positions / 8)
    assert chunk % 128 == 0 or chunk in (1, positions)


def test_only_positions_in_the_loss_go_through_the_head(monkeypatch):
    """Counted while the program runs: chunks of the forward pass and the same again, each once, of the backward."""
    projected = []

    def head_logits(config, hidden, head):
        jax.debug.callback(lambda: projected.append(hidden.shape[-2]))
        return real(config, hidden, head)

    real = score.head_logits
    monkeypatch.setattr(score, "head_logits", head_logits)
    monkeypatch.setattr(score, "_CHUNK_LOGITS", CHUNK * VOCAB)
    batch, _ = packed()
    few = np.zeros_like(batch.weights)
    few[1, 5:14] = few[2, 20:29] = 1.0
    few *= batch.weights
    count = int((few > 0).sum())
    told = jax.block_until_ready(graded(batch._replace(weights=few))(params()))
    jax.effects_barrier()
    assert projected == [CHUNK] * (2 * -(-count // CHUNK))
    assert count < batch.tokens.size / 4
    ((_, (logprobs, _)), gradient) = told
    assert ((np.asarray(logprobs) != 0) == (few > 0)).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_positions_travel_while_they_are_fewer_than_the_vocabulary_and_it_divides():
    split = make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
    assert score.shard_vocab_over_fsdp(split, 72, 72)
    assert not score.shard_vocab_over_fsdp(split, 73, 72)
    assert not score.shard_vocab_over_fsdp(mesh("4x2"), 1, VOCAB)
