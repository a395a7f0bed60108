"""The kernels of attention against each other and against a plain float64 softmax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from extra_jax.model import attention, splash
from extra_jax.model.attention import AttentionMask, Past, attend

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
