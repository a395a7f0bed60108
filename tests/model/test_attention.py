"""The kernels of attention against each other and against a plain float64 softmax."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from extra_jax.config import MeshConfig
from extra_jax.model import attention, cudnn, splash
from extra_jax.model.attention import AttentionMask, Past, attend
from extra_jax.parallel.mesh import make_mesh

BATCH, LENGTH, HEADS, KV_HEADS, HEAD = 2, 256, 4, 2, 128


def inputs(dtype: str = "float32") -> tuple[jax.Array, ...]:
    random = np.random.default_rng(0)
    shapes = [(BATCH, LENGTH, heads, HEAD) for heads in (HEADS, KV_HEADS, KV_HEADS, HEADS)]
    q, k, v, weight = (jnp.asarray(random.standard_normal(shape), dtype) for shape in shapes)
    cuts = [[0, 70, 199], [0, 128, 250]]  # where segments begin; the last one of each row is padding
    index = np.arange(LENGTH)
    segments = np.stack([np.searchsorted(row, index, side="right") for row in cuts])
    positions = index - np.take_along_axis(np.array(cuts), segments - 1, axis=1)
    segments[segments == 3] = 0
    return q, k, v, weight, jnp.asarray(segments, jnp.int32), jnp.asarray(positions, jnp.int32)


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


def test_attention_equals_a_plain_softmax():
    q, k, v, _, segments, positions = inputs()
    allowed = (positions[:, None] <= positions[:, :, None]) & (segments[:, None] == segments[:, :, None])
    out = attend(q, k, v, AttentionMask(positions, segments))
    np.testing.assert_allclose(out, slow(q, k, v, np.asarray(allowed)), atol=1e-5)


@pytest.mark.parametrize("parts", [(100,), (60, 40), (100, 1)])
def test_a_past_in_parts_equals_one_sequence(parts):
    """The last queries of a sequence, with what comes before them given as caches with unused slots."""
    q, k, v, *_ = inputs()
    first, positions = sum(parts), jnp.broadcast_to(jnp.arange(LENGTH), (BATCH, LENGTH))
    whole = attend(q, k, v, AttentionMask(positions))
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


@pytest.mark.parametrize("packed", [True, False])
def test_splash_equals_plain_matmuls_with_its_gradients(packed):
    q, k, v, weight, segments, positions = inputs()
    if not packed:
        segments, positions = None, jnp.broadcast_to(jnp.arange(LENGTH), (BATCH, LENGTH))
    real = 1.0 if segments is None else (segments > 0)[..., None, None]

    def loss(kind: str, *x: jax.Array) -> jax.Array:
        out = (
            splash.causal_attention(*x, segments, interpret=True)
            if kind == "splash"
            else attend(*x, AttentionMask(positions, segments))
        )
        return jnp.sum(out * weight * real)

    for kind in ("splash", "plain"):
        value, gradient = jax.value_and_grad(lambda x, kind=kind: loss(kind, *x))((q, k, v))
        if kind == "splash":
            told = value, gradient
    np.testing.assert_allclose(told[0], value, rtol=1e-4)
    for ours, expected in zip(told[1], gradient, strict=True):
        np.testing.assert_allclose(ours, expected, atol=2e-4)


def test_the_kernel_is_chosen_by_the_platform_of_the_mesh(monkeypatch):
    chosen = []
    monkeypatch.setattr(splash, "causal_attention", lambda q, *rest: chosen.append(q.shape) or q)
    q, k, v, _, segments, positions = inputs()
    for platform, length, expected in (("cpu", LENGTH, 0), ("tpu", LENGTH, 1), ("tpu", LENGTH - 1, 1)):
        monkeypatch.setattr(attention, "platform", lambda platform=platform: platform)
        attend(q[:, :length], k[:, :length], v[:, :length], AttentionMask(positions[:, :length], segments[:, :length]))
        assert len(chosen) == expected


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("sharded", [True, False])
def test_the_call_of_cudnn_equals_plain_matmuls_with_its_gradients(packed, sharded):
    """Where XLA implements it, which is all that can be run without a GPU; padding included, and over a mesh."""
    q, k, v, weight, segments, positions = inputs()
    if not packed:
        segments, positions = None, jnp.broadcast_to(jnp.arange(LENGTH), (BATCH, LENGTH))
    kinds = {
        "cudnn": lambda *x: cudnn.causal_attention(*x, segments, implementation="xla"),
        "plain": lambda *x: attend(*x, AttentionMask(positions, segments)),
    }
    told = {}
    for kind, function in kinds.items():
        mesh = make_mesh(MeshConfig(fsdp=2, tensor=2), jax.devices()[:4]) if sharded and kind == "cudnn" else None
        with jax.set_mesh(mesh) if mesh else contextlib.nullcontext():
            out, pull = jax.jit(lambda *x, function=function: jax.vjp(function, *x))(q, k, v)
            told[kind] = jax.device_get((out, *jax.jit(pull)(weight)))
    for ours, expected in zip(told["cudnn"], told["plain"], strict=True):
        assert np.isfinite(ours).all()
        np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize("packed", [True, False])
def test_on_a_gpu_whole_sequences_go_to_cudnn_forwards_and_backwards(monkeypatch, packed):
    """Lowered for CUDA, not run. Of a GPU, JAX asks for the version of the installed cuDNN only: this answer is made
    up."""
    monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(attention, "platform", lambda: "gpu")
    q, k, v, _, segments, positions = inputs("bfloat16")

    def text(q: jax.Array, k: jax.Array, v: jax.Array) -> str:
        mask = AttentionMask(positions[:, : q.shape[1]], segments[:, : q.shape[1]] if packed else None)
        gradient = jax.grad(lambda *x: jnp.sum(attend(*x, mask).astype(jnp.float32)), argnums=(0, 1, 2))
        return jax.jit(gradient).trace(q, k, v).lower(lowering_platforms=("cuda",)).as_text()

    name = "__cudnn$fmhaScaleBiasSoftmax" if packed else "__cudnn$fmhaSoftmax"
    lowered = text(q, k, v)
    assert f"@{name}(" in lowered
    assert f"@{name}Backward(" in lowered
    assert "__cudnn" not in text(*(x.astype(jnp.float32) for x in (q, k, v))), "cuDNN has no f32"
    assert "__cudnn" not in text(*(x[:, 1:] for x in (q, k, v))), "nor a gradient with a mask at an odd length"
