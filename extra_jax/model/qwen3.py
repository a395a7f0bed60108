"""Qwen3 (dense) in Flax NNX.

Trainer, sampler and evaluation all call this one module (design, decision 1). Layers are stacked and
scanned, so program size does not grow with depth. Parameters keep the shapes of their meaning (heads
apart from head dim) and name their axes once, in ``axes``; layouts follow from those names
(``parallel/sharding.py``).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from extra_jax.model.attention import AttentionMask, attend
from extra_jax.model.config import Qwen3Config
from extra_jax.parallel.sharding import constrain

_INIT_SCALE = 0.02  # initializer_range of every Qwen3

_REMAT = {
    "none": lambda f: f,
    "dots": lambda f: jax.checkpoint(f, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable),
    "full": jax.checkpoint,
}


class KVCache(NamedTuple):
    """Keys and values of all layers; the slot of a token is its position.

    Attributes:
        k: ``[L, B, S, K, H]``.
        v: ``[L, B, S, K, H]``.
    """

    k: jax.Array
    v: jax.Array


def _matrix(rngs: nnx.Rngs, shape: tuple[int, ...], axes: tuple[str | None, ...], dtype: jnp.dtype) -> nnx.Param:
    return nnx.Param(_INIT_SCALE * jax.random.normal(rngs.params(), shape, dtype), axes=axes)


def _zeros(shape: tuple[int, ...], axes: tuple[str | None, ...], dtype: jnp.dtype) -> nnx.Param:
    return nnx.Param(jnp.zeros(shape, dtype), axes=axes)


class RMSNorm(nnx.Module):
    """Root-mean-square norm over the last axis, computed in f32."""

    def __init__(self, size: int, eps: float, dtype: jnp.dtype):
        self.scale = nnx.Param(jnp.ones((size,), dtype), axes=(None,))
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        normed = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.eps)
        return self.scale[...].astype(x.dtype) * normed.astype(x.dtype)


class Linear(nnx.Module):
    """``einsum`` with a named-axis weight and an optional bias."""

    def __init__(self, rngs: nnx.Rngs, equation: str, shape: tuple, axes: tuple, dtype: jnp.dtype, bias: int = 0):
        self.equation = equation
        self.kernel = _matrix(rngs, shape, axes, dtype)
        self.bias = _zeros(shape[-bias:], axes[-bias:], dtype) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        y = jnp.einsum(self.equation, x, self.kernel[...].astype(x.dtype))
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


class Attention(nnx.Module):
    """Grouped-query attention with a norm on queries and keys."""

    def __init__(self, config: Qwen3Config, rngs: nnx.Rngs, dtype: jnp.dtype):
        d, n, k, h = config.hidden_size, config.num_attention_heads, config.num_key_value_heads, config.head_dim
        bias = config.attention_bias
        self.q_proj = Linear(rngs, "btd,dnh->btnh", (d, n, h), ("embed", "heads", None), dtype, bias=2 * bias)
        self.k_proj = Linear(rngs, "btd,dkh->btkh", (d, k, h), ("embed", "kv_heads", None), dtype, bias=2 * bias)
        self.v_proj = Linear(rngs, "btd,dkh->btkh", (d, k, h), ("embed", "kv_heads", None), dtype, bias=2 * bias)
        self.o_proj = Linear(rngs, "btnh,nhd->btd", (n, h, d), ("heads", None, "embed"), dtype, bias=bias)
        self.q_norm = RMSNorm(h, config.rms_norm_eps, dtype)
        self.k_norm = RMSNorm(h, config.rms_norm_eps, dtype)

    def queries_keys_values(self, x: jax.Array, rope: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """``x [B, T, D]`` -> rotated queries ``[B, T, N, H]`` and keys, and values ``[B, T, K, H]``."""
        q = _rotate(self.q_norm(constrain(self.q_proj(x), "batch", None, "heads", None)), rope)
        k = _rotate(self.k_norm(constrain(self.k_proj(x), "batch", None, "kv_heads", None)), rope)
        return q, k, constrain(self.v_proj(x), "batch", None, "kv_heads", None)


class MLP(nnx.Module):
    """SwiGLU."""

    def __init__(self, config: Qwen3Config, rngs: nnx.Rngs, dtype: jnp.dtype):
        d, f = config.hidden_size, config.intermediate_size
        self.gate_proj = Linear(rngs, "btd,df->btf", (d, f), ("embed", "mlp"), dtype)
        self.up_proj = Linear(rngs, "btd,df->btf", (d, f), ("embed", "mlp"), dtype)
        self.down_proj = Linear(rngs, "btf,fd->btd", (f, d), ("mlp", "embed"), dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = jax.nn.silu(self.gate_proj(x)) * self.up_proj(x)
        return self.down_proj(constrain(hidden, "batch", None, "mlp"))


class DecoderLayer(nnx.Module):
    """Pre-norm attention and feed-forward with residual connections."""

    def __init__(self, config: Qwen3Config, rngs: nnx.Rngs, dtype: jnp.dtype):
        self.input_norm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype)
        self.attention = Attention(config, rngs, dtype)
        self.post_attention_norm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype)
        self.mlp = MLP(config, rngs, dtype)

    def __call__(
        self, x: jax.Array, rope: jax.Array, mask: AttentionMask, cache: KVCache | None, layer: jax.Array
    ) -> tuple[jax.Array, KVCache | None, tuple[jax.Array, jax.Array]]:
        """``x [B, T, D]``; with a cache the new keys and values are written into it and all of it is attended to."""
        with jax.named_scope("attention"):
            q, k, v = self.attention.queries_keys_values(self.input_norm(x), rope)
            if cache is None:
                out = attend(q, k, v, mask)
            else:
                cache = _write(cache, layer, mask.q_positions, k, v)
                out = attend(q, cache.k[layer], cache.v[layer], mask)
            x = constrain(x + self.attention.o_proj(out), "batch", None, None)
        with jax.named_scope("mlp"):
            x = constrain(x + self.mlp(self.post_attention_norm(x)), "batch", None, None)
        return x, cache, (k, v)


class Qwen3(nnx.Module):
    """The language model without its head applied: hidden states out, ``logits`` on demand.

    Args:
        config: shape and arithmetic.
        rngs: seeds of the random weights.
        param_dtype: dtype of the parameters as stored.
        remat: what the backward pass recomputes: ``none``, ``dots`` (all but matmul results) or ``full`` layers.
    """

    def __init__(self, config: Qwen3Config, *, rngs: nnx.Rngs, param_dtype: str = "float32", remat: str = "full"):
        dtype = jnp.dtype(param_dtype)
        self.config = config
        self.remat = remat
        self.embed = _matrix(rngs, (config.vocab_size, config.hidden_size), ("vocab", "embed"), dtype)
        self.layers = nnx.vmap(lambda r: DecoderLayer(config, r, dtype))(rngs.split(config.num_hidden_layers))
        self.final_norm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype)
        self.lm_head = (
            None
            if config.tie_word_embeddings
            else _matrix(rngs, (config.hidden_size, config.vocab_size), ("embed", "vocab"), dtype)
        )

    def __call__(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        *,
        segment_ids: jax.Array | None = None,
        cache: KVCache | None = None,
        dtype: jnp.dtype | str = jnp.float32,
    ) -> tuple[jax.Array, KVCache]:
        """Hidden states of ``tokens``.

        Args:
            tokens: ``[B, T]`` int32.
            positions: ``[B, T]`` int32, position of a token in its sequence.
            segment_ids: ``[B, T]`` int32, several sequences in one row; 0 is padding. Not with a cache.
            cache: keys and values so far. New ones are written to the slots ``positions``, and a token sees the
                slots up to its own position; slots beyond hold leftovers and are never seen.
            dtype: of activations.

        Returns:
            Hidden states ``[B, T, D]`` after the final norm, and the updated cache; without a cache, the keys and
            values of these tokens (``[L, B, T, K, H]``), dropped by the compiler where unused.
        """
        x = constrain(self.embed[...].astype(dtype)[tokens], "batch", None, None)
        rope = _rope(positions, self.config.head_dim, self.config.rope_theta)
        if cache is None:
            mask = AttentionMask(positions, positions, segment_ids, segment_ids)
        else:
            slots = jnp.arange(cache.k.shape[2], dtype=positions.dtype)
            mask = AttentionMask(positions, jnp.broadcast_to(slots, (tokens.shape[0], slots.size)))
        layer_def, layer_params = nnx.split(self.layers)

        def body(carry: tuple, scanned: tuple) -> tuple:
            x, cache = carry
            params, layer = scanned
            x, cache, kv = nnx.merge(layer_def, params)(x, rope, mask, cache, layer)
            return (x, cache), (kv if cache is None else None)

        index = jnp.arange(self.config.num_hidden_layers)
        (x, cache), new_kv = jax.lax.scan(_REMAT[self.remat](body), (x, cache), (layer_params, index))
        return self.final_norm(x), cache if cache is not None else KVCache(*new_kv)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Hidden states ``[..., D]`` -> f32 logits ``[..., V]``; the matmul accumulates in f32."""
        head = self.embed[...] if self.lm_head is None else self.lm_head[...]
        equation = "...d,vd->...v" if self.lm_head is None else "...d,dv->...v"
        return jnp.einsum(equation, hidden, head.astype(hidden.dtype), preferred_element_type=jnp.float32)


def _write(cache: KVCache, layer: jax.Array, positions: jax.Array, k: jax.Array, v: jax.Array) -> KVCache:
    """Scatters ``k, v [B, T, K, H]`` into the slots ``positions [B, T]`` of one layer."""
    rows = jnp.arange(positions.shape[0])[:, None]
    return KVCache(
        cache.k.at[layer, rows, positions].set(k.astype(cache.k.dtype)),
        cache.v.at[layer, rows, positions].set(v.astype(cache.v.dtype)),
    )


def _rope(positions: jax.Array, head_dim: int, theta: float) -> jax.Array:
    """Angles ``[B, T, H/2]`` of the rotary embedding, f32."""
    frequencies = theta ** -(jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    return positions[..., None].astype(jnp.float32) * frequencies


def _rotate(x: jax.Array, angles: jax.Array) -> jax.Array:
    """Rotates ``x [B, T, heads, H]`` by ``angles [B, T, H/2]``, in f32; halves are paired as Qwen3 pairs them."""
    sin, cos = jnp.sin(angles)[:, :, None], jnp.cos(angles)[:, :, None]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
