"""The kernels of attention against each other and against a plain float64 softmax."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from extra_jax.config import MeshConfig
from extra_jax.model import attention, cudnn, splash
from extra_jax.model.attention import Past, attend
from extra_jax.model.mask import AttentionMask
from extra_jax.parallel.mesh import make_mesh

BATCH, LENGTH, HEADS, KV_HEADS, HEAD = 2, 256, 4, 2, 128


def inputs(dtype: str = "float32") -> tuple[jax.Array, ...]:
    random = np.random.default_rng(0)
    shapes = [(BATCH, LENGTH, heads, HEAD) for heads in (HEADS, KV_HEADS, KV_HEADS, HEADS)]
    return tuple(jnp.asarray(random.standard_normal(shape), dtype) for shape in shapes)


# of each row: (segment, first token, end, position of the first token, context); what is left is padding
PIECES = {
    "packed": [[(1, 0, 70, 0, 1), (2, 70, 199, 0, 2)], [(1, 0, 128, 0, 1), (2, 128, 250, 0, 2)]],
    "shared": [
        [(1, 0, 70, 0, 1), (2, 70, 150, 70, 1), (3, 150, 160, 70, 1), (4, 160, 250, 0, 4)],
        [(1, 0, 3, 0, 1), (2, 3, 130, 3, 1), (3, 130, 140, 0, 3), (4, 140, 200, 10, 3), (5, 200, 256, 10, 3)],
    ],
}
KINDS = ("whole", "packed", "shared")


def mask_of(kind: str) -> AttentionMask:
    """Rows of one segment, of several, or of several that share contexts."""
    positions, segments, contexts = (np.zeros((BATCH, LENGTH), np.int32) for _ in range(3))
    if kind == "whole":
        return AttentionMask(jnp.broadcast_to(jnp.arange(LENGTH, dtype=jnp.int32), positions.shape))
    for row, pieces in enumerate(PIECES[kind]):
        for segment, start, end, position, context in pieces:
            positions[row, start:end] = np.arange(position, position + end - start)
            segments[row, start:end], contexts[row, start:end] = segment, context
    told = (positions, segments, contexts) if kind == "shared" else (positions, segments)
    return AttentionMask(*map(jnp.asarray, told))


def allowed_of(kind: str) -> np.ndarray:
    """``[B, T, T]``, written down piece by piece."""
    allowed = np.zeros((BATCH, LENGTH, LENGTH), bool)
    if kind == "whole":
        allowed[:] = np.tri(LENGTH)
        return allowed
    for row, pieces in enumerate(PIECES[kind]):
        at = {segment: (start, end) for segment, start, end, *_ in pieces}
        for _, start, end, _, context in pieces:
            allowed[row, start:end, slice(*at[context])] = True
            allowed[row, start:end, start:end] = np.tri(end - start)
    return allowed


def real(mask: AttentionMask) -> jax.Array | float:
    return 1.0 if mask.segments is None else (mask.segments > 0)[..., None, None]


def slow(q: np.ndarray, k: np.ndarray, v: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """``allowed [B, T, S]``; float64, one head at a time."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros(q.shape)
    for head in range(q.shape[2]):
        kv = head // (q.shape[2] // k.shape[2])
        scores = np.einsum("bth,bsh->bts", q[:, :, head], k[:, :, kv]) / np.sqrt(q.shape[-1])
        scores = np.where(allowed, scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        out[:, :, head] = np.einsum("bts,bsh->bth", weights / weights.sum(-1, keepdims=True), v[:, :, kv])
    return out


@pytest.mark.parametrize("length", [64, LENGTH])
@pytest.mark.parametrize("kind", KINDS)
def test_attention_equals_a_plain_softmax(kind, length, monkeypatch):
    monkeypatch.setattr(attention, "_block_length", lambda _: length)  # queries in one block, and in several
    q, k, v, _ = inputs()
    mask, allowed = mask_of(kind), allowed_of(kind)
    out = attend(q, k, v, mask) * real(mask)
    np.testing.assert_allclose(out, slow(q, k, v, allowed | np.eye(LENGTH, dtype=bool)) * real(mask), atol=1e-5)


@pytest.mark.parametrize("parts", [(100,), (60, 40), (100, 1)])
def test_a_past_in_parts_equals_one_sequence(parts):
    """The last queries of a sequence, with what comes before them given as caches with unused slots."""
    q, k, v, _ = inputs()
    first, positions = sum(parts), mask_of("whole").positions
    whole = attend(q, k, v, mask_of("whole"))
    past, start = [], 0
    for size in parts:
        chosen = slice(start, start + size)
        spare = [(0, 0), (0, 7), (0, 0), (0, 0)]
        keys, values = (jnp.pad(x[:, chosen], spare, constant_values=99.0) for x in (k, v))
        valid = jnp.broadcast_to(jnp.arange(size + 7) < size, (BATCH, size + 7))
        past.append(Past(keys.transpose(0, 2, 3, 1), values.transpose(0, 2, 1, 3), valid))
        start += size
    mask = AttentionMask(positions[:, first:])
    np.testing.assert_allclose(
        attend(q[:, first:], k[:, first:], v[:, first:], mask, past), whole[:, first:], atol=1e-5
    )


@pytest.mark.parametrize("mask_kind", KINDS)
def test_splash_equals_plain_matmuls_with_its_gradients(mask_kind):
    (q, k, v, weight), mask = inputs(), mask_of(mask_kind)

    def loss(kind: str, *x: jax.Array) -> jax.Array:
        out = splash.causal_attention(*x, mask, interpret=True) if kind == "splash" else attend(*x, mask)
        return jnp.sum(out * weight * real(mask))

    for kind in ("splash", "plain"):
        value, gradient = jax.jit(jax.value_and_grad(lambda x, kind=kind: loss(kind, *x)))((q, k, v))
        if kind == "splash":
            told = value, gradient
    np.testing.assert_allclose(told[0], value, rtol=1e-4)
    for ours, expected in zip(told[1], gradient, strict=True):
        np.testing.assert_allclose(ours, expected, atol=2e-4)


def test_the_kernel_is_chosen_by_the_platform_of_the_mesh(monkeypatch):
    chosen = []
    monkeypatch.setattr(splash, "causal_attention", lambda q, *rest: chosen.append(q.shape) or q)
    (q, k, v, _), whole = inputs(), mask_of("shared")
    for platform, length, expected in (("cpu", LENGTH, 0), ("tpu", LENGTH, 1), ("tpu", LENGTH - 1, 1)):
        monkeypatch.setattr(attention, "platform", lambda platform=platform: platform)
        mask = AttentionMask(*(x[:, :length] for x in whole))
        attend(q[:, :length], k[:, :length], v[:, :length], mask)
        assert len(chosen) == expected


@pytest.mark.parametrize("mask_kind", KINDS)
@pytest.mark.parametrize("sharded", [True, False])
def test_the_call_of_cudnn_equals_plain_matmuls_with_its_gradients(mask_kind, sharded):
    """Where XLA implements it, which is all that can be run without a GPU; over a mesh, too."""
    (q, k, v, weight), mask = inputs(), mask_of(mask_kind)
    weight = weight * real(mask)
    kinds = {
        "cudnn": lambda *x: cudnn.causal_attention(*x, mask, implementation="xla"),
        "plain": lambda *x: attend(*x, mask),
    }
    told = {}
    for kind, function in kinds.items():
        mesh = make_mesh(MeshConfig(fsdp=2, tensor=2), jax.devices()[:4]) if sharded and kind == "cudnn" else None
        with jax.set_mesh(mesh) if mesh else contextlib.nullcontext():
            out, pull = jax.jit(lambda *x, function=function: jax.vjp(function, *x))(q, k, v)
            told[kind] = jax.device_get((out * real(mask), *jax.jit(pull)(weight)))
    for ours, expected in zip(told["cudnn"], told["plain"], strict=True):
        assert np.isfinite(ours).all()
        np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize("mask_kind", KINDS)
def test_on_a_gpu_whole_sequences_go_to_cudnn_forwards_and_backwards(monkeypatch, mask_kind):
    """Lowered for CUDA, not run. Of a GPU, JAX asks for the version of the installed cuDNN only: this answer is made
    up."""
    monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(attention, "platform", lambda: "gpu")
    (q, k, v, _), whole = inputs("bfloat16"), mask_of(mask_kind)

    def text(q: jax.Array, k: jax.Array, v: jax.Array) -> str:
        mask = AttentionMask(*(None if x is None else x[:, : q.shape[1]] for x in whole))
        gradient = jax.grad(lambda *x: jnp.sum(attend(*x, mask).astype(jnp.float32)), argnums=(0, 1, 2))
        return jax.jit(gradient).trace(q, k, v).lower(lowering_platforms=("cuda",)).as_text()

    name = "__cudnn$fmhaSoftmax" if mask_kind == "whole" else "__cudnn$fmhaScaleBiasSoftmax"
    lowered = text(q, k, v)
    assert f"@{name}(" in lowered
    assert f"@{name}Backward(" in lowered
    assert "__cudnn" not in text(*(x.astype(jnp.float32) for x in (q, k, v))), "cuDNN has no f32"
    assert "__cudnn" not in text(*(x[:, 1:] for x in (q, k, v))), "nor a gradient with a mask at an odd length"
