"""The dense decoder of Qwen and Llama in Flax NNX; ``model/families.py`` says what sets the families apart.

Trainer, sampler and evaluation all call this one module (docs/design.md, decision 1). Layers are stacked and
scanned, so program size does not grow with depth; a CPU unrolls them where they are few. Parameters keep
the shapes of their meaning (heads apart from head dim) and name their axes once, in ``axes``; layouts
follow from those names (``parallel/sharding.py``).
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from extra_jax.model.attention import AttentionMask, Past, attend, platform
from extra_jax.model.config import Qwen3Config
from extra_jax.model.rope import rope, rotate
from extra_jax.parallel.sharding import constrain

MAX_UNROLLED = 8  # layers that may be apart in a program; beyond, its size would grow with depth for little
_INIT_SCALE = 0.02  # initializer_range of every family

_REMAT = {
    "none": lambda f: f,
    "dots": lambda f: jax.checkpoint(f, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable),
    "full": jax.checkpoint,
}


class KeysValues(NamedTuple):
    """Keys and values of all layers: an array with a leading ``L`` axis where layers are scanned, else a tuple of ``L``
    arrays. The axes of a layer are ``[B, T, K, H]`` for new tokens, and those of ``attention.Past`` in a cache."""

    k: Any
    v: Any


class Cache(NamedTuple):
    """Keys and values of earlier tokens, of all layers, read only; ``valid`` is ``[B, C]`` as in ``attention.Past``."""

    kv: KeysValues
    valid: jax.Array


def _matrix(
    rngs: nnx.Rngs, shape: tuple[int, ...], axes: tuple[str | None, ...], dtype: jnp.dtype, **metadata: Any
) -> nnx.Param:
    return nnx.Param(_INIT_SCALE * jax.random.normal(rngs.params(), shape, dtype), axes=axes, **metadata)


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
    """Matmul with a named-axis weight and an optional bias.

    Tokens are one axis of the matmul, and so are heads and head dim: with more axes XLA makes transposed copies of
    weights and, for the gradient, of activations.

    Args:
        rngs: seeds of the random weight.
        shape: of the weight: ``inputs`` axes of ``x``, then those of the result.
        axes: names of the axes.
        dtype: as stored.
        inputs: number of axes that are summed over.
        bias: whether there is one.
        outputs_first: store the weight transposed, the axes of the result before those of ``x``. A CPU multiplies few
            tokens a tenth to a third faster that way, because it copies the operand on the right first.
    """

    def __init__(
        self,
        rngs: nnx.Rngs,
        shape: tuple,
        axes: tuple,
        dtype: jnp.dtype,
        inputs: int = 1,
        bias: bool = False,
        outputs_first: bool = False,
    ):
        self.inputs, self.outputs, self.outputs_first = shape[:inputs], shape[inputs:], outputs_first
        self.bias = _zeros(self.outputs, axes[inputs:], dtype) if bias else None
        if outputs_first:
            shape, axes = (*self.outputs, *self.inputs), (*axes[inputs:], *axes[:inputs])
        self.kernel = _matrix(rngs, shape, axes, dtype, inputs=inputs)  # ``inputs``: for ``reshard``

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel, size = self.kernel[...].astype(x.dtype), math.prod(self.inputs)
        flat = x.reshape(-1, size)
        if self.outputs_first:
            y = jnp.einsum("od,td->ot", kernel.reshape(-1, size), flat)
            y = jax.lax.optimization_barrier(y).T  # else XLA swaps the operands
        else:
            y = flat @ kernel.reshape(size, -1)
        y = y.reshape(*x.shape[: -len(self.inputs)], *self.outputs)
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


class Attention(nnx.Module):
    """Grouped-query attention; in some families with a norm on queries and keys, in others with biases."""

    def __init__(self, config: Qwen3Config, rngs: nnx.Rngs, dtype: jnp.dtype, outputs_first: bool):
        d, n, k, h = config.hidden_size, config.num_attention_heads, config.num_key_value_heads, config.head_dim
        inputs = {"bias": config.qkv_bias, "outputs_first": outputs_first}
        output = {"bias": config.attention_bias, "outputs_first": outputs_first}
        self.q_proj = Linear(rngs, (d, n, h), ("embed", "heads", None), dtype, **inputs)
        self.k_proj = Linear(rngs, (d, k, h), ("embed", "kv_heads", None), dtype, **inputs)
        self.v_proj = Linear(rngs, (d, k, h), ("embed", "kv_heads", None), dtype, **inputs)
        self.o_proj = Linear(rngs, (n, h, d), ("heads", None, "embed"), dtype, inputs=2, **output)
        normed = config.family.qk_norm
        self.q_norm = RMSNorm(h, config.rms_norm_eps, dtype) if normed else None
        self.k_norm = RMSNorm(h, config.rms_norm_eps, dtype) if normed else None

    def queries_keys_values(self, x: jax.Array, turns: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """``x [B, T, D]`` -> rotated queries ``[B, T, N, H]`` and keys, and values ``[B, T, K, H]``."""
        q = constrain(self.q_proj(x), "batch", None, "heads", None)
        k = constrain(self.k_proj(x), "batch", None, "kv_heads", None)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q, turns), rotate(k, turns)
        return q, k, constrain(self.v_proj(x), "batch", None, "kv_heads", None)


class MLP(nnx.Module):
    """SwiGLU."""

    def __init__(self, config: Qwen3Config, rngs: nnx.Rngs, dtype: jnp.dtype, outputs_first: bool):
        d, f = config.hidden_size, config.intermediate_size
        options = {"bias": config.mlp_bias, "outputs_first": outputs_first}
        self.gate_proj = Linear(rngs, (d, f), ("embed", "mlp"), dtype, **options)
        self.up_proj = Linear(rngs, (d, f), ("embed", "mlp"), dtype, **options)
        self.down_proj = Linear(rngs, (f, d), ("mlp", "embed"), dtype, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = jax.nn.silu(self.gate_proj(x)) * self.up_proj(x)
        return self.down_proj(constrain(hidden, "batch", None, "mlp"))


class DecoderLayer(nnx.Module):
    """Pre-norm attention and feed-forward with residual connections."""

    def __init__(self, config: Qwen3Config, rngs: nnx.Rngs, dtype: jnp.dtype, outputs_first: bool = False):
        self.input_norm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype)
        self.attention = Attention(config, rngs, dtype, outputs_first)
        self.post_attention_norm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype)
        self.mlp = MLP(config, rngs, dtype, outputs_first)

    def __call__(
        self, x: jax.Array, turns: jax.Array, mask: AttentionMask, past: Sequence[Past] = ()
    ) -> tuple[jax.Array, KeysValues]:
        """``x [B, T, D]`` -> the same after this layer, and the keys and values of its tokens."""
        with jax.named_scope("attention"):
            q, k, v = self.attention.queries_keys_values(self.input_norm(x), turns)
            x = constrain(x + self.attention.o_proj(attend(q, k, v, mask, past)), "batch", None, None)
        with jax.named_scope("mlp"):
            x = constrain(x + self.mlp(self.post_attention_norm(x)), "batch", None, None)
        return x, KeysValues(k, v)


class Qwen3(nnx.Module):
    """The language model without its head applied: hidden states out, ``logits`` on demand.

    Args:
        config: shape and arithmetic.
        rngs: seeds of the random weights.
        param_dtype: dtype of the parameters as stored.
        remat: what the backward pass recomputes: ``none``, ``dots`` (all but matmul results) or ``full`` layers.
        scan: layers stacked and scanned; else a list of layers, which decodes faster where copying a layer's weights
            out of the stack costs as much as using them (a small batch on a CPU).
    """

    def __init__(
        self,
        config: Qwen3Config,
        *,
        rngs: nnx.Rngs,
        param_dtype: str | jnp.dtype = "float32",
        remat: str = "full",
        scan: bool = True,
    ):
        dtype = jnp.dtype(param_dtype)
        self.config = config
        self.remat = remat
        self.embed = _matrix(rngs, (config.vocab_size, config.hidden_size), ("vocab", "embed"), dtype)
        self.scan = scan
        seeds = rngs.split(config.num_hidden_layers)
        self.layers: Any = (  # one stacked layer, or a list of layers
            nnx.vmap(lambda r: DecoderLayer(config, r, dtype))(seeds)
            if scan
            else nnx.List(
                DecoderLayer(config, rngs, dtype, outputs_first=True) for _ in range(config.num_hidden_layers)
            )
        )
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
        contexts: jax.Array | None = None,
        past: Sequence[Cache] = (),
        dtype: jnp.dtype | str = jnp.float32,
    ) -> tuple[jax.Array, KeysValues]:
        """Hidden states of ``tokens``.

        Args:
            tokens: ``[B, T]`` int32.
            positions: ``[B, T]`` int32, position of a token in its sequence.
            segment_ids: ``[B, T]`` int32, several sequences in one row; 0 is padding. Not with a cache.
            contexts: ``[B, T]`` int32, the segment before its own that a token sees, too, as in
                ``mask.AttentionMask``.
            past: earlier tokens of each row, in parts.
            dtype: of activations.

        Returns:
            Hidden states ``[B, T, D]`` after the final norm, and the keys and values of these tokens, which the
            compiler drops where they are not used.
        """
        table = self.embed[...].astype(dtype)
        if segment_ids is not None:  # training, where parameters are split over fsdp: tokens travel, not the table
            table = constrain(table, "vocab", "embed")
        x = constrain(table[tokens], "batch", None, None)
        turns = rope(positions, self.config.head_dim, self.config.rope_theta, self.config.rope_scaling)
        mask = AttentionMask(positions, segment_ids, contexts)
        valid = [cache.valid for cache in past]

        def run(layer: DecoderLayer, x: jax.Array, caches: list[KeysValues]) -> tuple[jax.Array, KeysValues]:
            return layer(x, turns, mask, [Past(kv.k, kv.v, v) for kv, v in zip(caches, valid, strict=True)])

        caches = [cache.kv for cache in past]
        if self.scan:
            layer_def, params = nnx.split(self.layers)
            # Here and not in the layers: the gradients of all of them stay in ``dtype`` until they are added up.
            params = jax.tree.map(lambda x: x.astype(dtype), params)
            body = _REMAT[self.remat](lambda x, scanned: run(nnx.merge(layer_def, scanned[0]), x, scanned[1]))
            # On a CPU, stacking what the backward pass needs of each layer costs a tenth of a step.
            apart = platform() == "cpu" and self.config.num_hidden_layers <= MAX_UNROLLED
            x, new = jax.lax.scan(body, x, (params, caches), unroll=apart)
            return self.final_norm(x), new
        new = []
        for index, layer in enumerate(self.layers):
            x, kv = run(layer, x, [KeysValues(kv.k[index], kv.v[index]) for kv in caches])
            new.append(kv)
        return self.final_norm(x), KeysValues(tuple(kv.k for kv in new), tuple(kv.v for kv in new))

    @property
    def head(self) -> jax.Array:
        """What ``head_logits`` applies: ``[V, D]`` where it is tied to the embedding, else ``[D, V]``."""
        return self.embed[...] if self.lm_head is None else self.lm_head[...]

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Hidden states ``[..., D]`` -> f32 logits ``[..., V]``."""
        return head_logits(self.config, hidden, self.head)


def head_logits(config: Qwen3Config, hidden: jax.Array, head: jax.Array) -> jax.Array:
    """Hidden states ``[..., D]`` -> f32 logits ``[..., V]``; the matmul accumulates in f32."""
    equation = "td,vd->tv" if config.tie_word_embeddings else "td,dv->tv"
    flat = hidden.reshape(-1, hidden.shape[-1])
    logits = jnp.einsum(equation, flat, head.astype(hidden.dtype), preferred_element_type=jnp.float32)
    return logits.reshape(*hidden.shape[:-1], -1)
