"""Our decoder against ``transformers``, family by family: logits, gradients, cache, packing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from extra_jax.model.hf_names import hf_tensors
from extra_jax.model.qwen3 import Cache, KeysValues, Qwen3
from extra_jax.parallel.reshard import unstack_layers
from model.torch_qwen3 import FAMILIES, SMALL, load_ours, our_logits, save_torch, torch_logits, torch_model

BATCH, LENGTH = 3, 24
ATOL = 1e-4
VARIANTS = {
    f"{'tied' if tied else 'untied'}-theta{theta:.0e}{'-bias' if bias else ''}": dict(
        tie_word_embeddings=tied, rope_theta=theta, attention_bias=bias
    )
    for tied, theta, bias in [
        (True, 1e6, False),
        (True, 5e6, False),
        (False, 1e6, False),
        (False, 5e6, False),
        (False, 1e6, True),
    ]
} | FAMILIES

GRADIENT_VARIANTS = {
    name: VARIANTS[name]
    for name in ("tied-theta5e+06", "untied-theta1e+06-bias", "qwen2", "llama-untied-biases", "qwen3-yarn")
}


@pytest.fixture(scope="module", params=VARIANTS.values(), ids=VARIANTS)
def pair(request, tmp_path_factory):
    """The reference and our model, loaded from its folder."""
    reference = torch_model(**request.param)
    return reference, load_ours(save_torch(reference, tmp_path_factory.mktemp("hf")))


@pytest.fixture(scope="module")
def default_pair(tmp_path_factory):
    reference = torch_model(**VARIANTS["untied-theta1e+06-bias"])
    folder = save_torch(reference, tmp_path_factory.mktemp("hf"))
    return reference, load_ours(folder), folder


def _tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(0, SMALL.vocab_size, (BATCH, LENGTH))


def _padding(side: str) -> np.ndarray:
    """``[B, T]`` int; 1 is a real token. Rows of different length, the first without padding."""
    lengths = np.array([LENGTH, LENGTH - 7, 5]) if side != "none" else np.full(BATCH, LENGTH)
    columns = np.arange(LENGTH)
    if side == "left":
        return (columns >= LENGTH - lengths[:, None]).astype(int)
    return (columns < lengths[:, None]).astype(int)


def _positions(mask: np.ndarray) -> np.ndarray:
    return np.maximum(mask.cumsum(1) - 1, 0)


WHOLE = np.ones((BATCH, LENGTH), int)  # a mask without padding; one shape for all tests, so one compilation


@pytest.mark.parametrize("side", ["none", "left", "right"])
def test_logits_equal_transformers(pair, side):
    reference, ours = pair
    tokens, mask = _tokens(), _padding(side)
    expected = torch_logits(reference, tokens, mask)
    actual = np.asarray(our_logits(ours.graphdef, ours.params, tokens, _positions(mask), mask))
    real = mask.astype(bool)
    assert np.abs(expected[real]).max() > 3  # an absolute tolerance on logits of ordinary size
    np.testing.assert_allclose(actual[real], expected[real], rtol=0, atol=ATOL)


def test_far_positions_equal_transformers(default_pair):
    reference, ours, _ = default_pair
    tokens = _tokens()
    near = np.arange(LENGTH // 2)
    positions = np.broadcast_to(np.concatenate([near, 40_000 + near]), tokens.shape)
    causal = torch.full((1, 1, LENGTH, LENGTH), torch.finfo(torch.float32).min).triu(1)
    with torch.no_grad():
        out = reference(torch.tensor(tokens), attention_mask=causal, position_ids=torch.tensor(positions))
    actual = our_logits(ours.graphdef, ours.params, tokens, positions, WHOLE)
    np.testing.assert_allclose(actual, out.logits.numpy(), rtol=0, atol=10 * ATOL)


def _loss(params: nnx.State, graphdef: nnx.GraphDef, tokens: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean cross-entropy of the next token over right-padded rows."""
    logits = our_logits(graphdef, params, tokens, jnp.maximum(mask.cumsum(1) - 1, 0), mask)
    logprobs = jax.nn.log_softmax(logits[:, :-1])
    chosen = jnp.take_along_axis(logprobs, tokens[:, 1:, None], -1)[..., 0]
    return -(chosen * mask[:, 1:]).sum() / mask[:, 1:].sum()


_loss_and_gradient = jax.jit(jax.value_and_grad(_loss), static_argnums=1)


def _torch_loss(model: torch.nn.Module, tokens: np.ndarray, mask: np.ndarray) -> torch.Tensor:
    tokens, mask = torch.tensor(tokens), torch.tensor(mask)
    logprobs = model(tokens, attention_mask=mask).logits[:, :-1].log_softmax(-1)
    chosen = logprobs.gather(-1, tokens[:, 1:, None])[..., 0]
    return -(chosen * mask[:, 1:]).sum() / mask[:, 1:].sum()


@pytest.mark.parametrize("pair", GRADIENT_VARIANTS.values(), ids=GRADIENT_VARIANTS, indirect=True)
def test_gradients_equal_transformers(pair):
    reference, ours = pair
    tokens, mask = _tokens(), _padding("right")
    reference.zero_grad()
    expected_loss = _torch_loss(reference, tokens, mask)
    expected_loss.backward()
    expected = {name: parameter.grad.numpy() for name, parameter in reference.named_parameters()}
    loss, gradient = _loss_and_gradient(ours.params, ours.graphdef, tokens, mask)
    np.testing.assert_allclose(loss, expected_loss.item(), rtol=1e-5)
    names = {tensor.name for tensor in hf_tensors(ours.config)}
    assert names == expected.keys()
    for tensor in hf_tensors(ours.config):
        value = functools.reduce(lambda tree, key: tree[key], tensor.path, gradient)[...]
        value = tensor.layout.to_hf(value if tensor.layer is None else value[tensor.layer])
        scale = np.abs(expected[tensor.name]).max()
        assert scale > 0, tensor.name
        assert np.abs(value - expected[tensor.name]).max() <= 1e-4 * scale, tensor.name


def test_remat_policies_give_equal_gradients(default_pair):
    _, ours, folder = default_pair
    tokens, mask = _tokens(), _padding("right")
    expected = _loss_and_gradient(ours.params, ours.graphdef, tokens, mask)
    for remat in ("none", "dots"):
        other = load_ours(folder, remat=remat)
        assert other.graphdef != ours.graphdef
        actual = _loss_and_gradient(ours.params, other.graphdef, tokens, mask)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), actual, expected)


@pytest.mark.parametrize("scan", [True, False])
def test_tokens_after_a_cache_equal_the_full_forward(default_pair, scan):
    """A branch at any position: rows of different length, the rest of each in one call and token by token."""
    _, ours, _ = default_pair
    tokens, lengths, chunk = _tokens(), np.array([9, 4, 7]), 5
    full = our_logits(ours.graphdef, ours.params, tokens, _positions(WHOLE), WHOLE)
    _, kv = nnx.merge(ours.graphdef, ours.params)(tokens, _positions(WHOLE))
    graphdef, params = ours.graphdef, ours.params
    if not scan:
        model = nnx.eval_shape(lambda: Qwen3(ours.config, rngs=nnx.Rngs(0), scan=False))
        graphdef, params = nnx.split(model)[0], unstack_layers(params)
    k, v = jnp.moveaxis(kv.k, 2, 4), jnp.moveaxis(kv.v, 2, 3)  # [L, B, K, H, T] and [L, B, K, T, H]
    kv = KeysValues(k, v) if scan else KeysValues(tuple(k), tuple(v))
    cache = Cache(kv, np.arange(LENGTH) < lengths[:, None])  # holds all tokens; only these may be seen
    at = lengths[:, None] + np.arange(chunk)
    rows = np.arange(BATCH)[:, None]

    @jax.jit
    def run(params, tokens, positions, past):
        model = nnx.merge(graphdef, params)
        hidden, new = model(tokens, positions, past=past)
        return model.logits(hidden), new

    logits, _ = run(params, tokens[rows, at], at, [cache])
    np.testing.assert_allclose(logits, full[rows, at], rtol=0, atol=2e-5)
    further = cache._replace(valid=np.arange(LENGTH) == lengths[:, None])  # a second part: the next token alone
    logits, _ = run(params, tokens[rows, at[:, 1:2]], at[:, 1:2], [cache, further])
    np.testing.assert_allclose(logits, full[rows, at[:, 1:2]], rtol=0, atol=2e-5)


def test_packed_segments_equal_separate_rows(default_pair):
    """Three sequences in the first row, and each alone in a row of its own."""
    _, ours, _ = default_pair
    lengths = (11, 6, 4)
    starts = np.cumsum((0, *lengths[:-1]))
    alone, mask = _tokens(), (np.arange(LENGTH) < np.array(lengths)[:, None]).astype(int)
    packed, segments, positions = (np.zeros((BATCH, LENGTH), int) for _ in range(3))
    for row, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        span = slice(start, start + length)
        packed[0, span], segments[0, span], positions[0, span] = alone[row, :length], row + 1, np.arange(length)
    together = our_logits(ours.graphdef, ours.params, packed, positions, segments)[0]
    separate = our_logits(ours.graphdef, ours.params, alone, _positions(mask), mask)
    for row, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        np.testing.assert_allclose(together[start : start + length], separate[row, :length], rtol=0, atol=2e-5)


def test_bf16_weights_give_f32_logits(default_pair):
    reference, _, folder = default_pair
    ours = load_ours(folder, param_dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(ours.params)} == {jnp.dtype("bfloat16")}
    tokens = _tokens()
    logits = our_logits(ours.graphdef, ours.params, tokens, _positions(WHOLE), WHOLE, dtype="bfloat16")
    assert logits.dtype == jnp.float32
    assert (logits != logits.astype(jnp.bfloat16)).mean() > 0.9  # accumulated in f32, not widened afterwards
    expected = torch_logits(reference, tokens)
    assert np.abs(logits - expected).mean() < 0.02 * np.abs(expected).max()
