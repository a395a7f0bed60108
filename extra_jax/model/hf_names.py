"""Where each tensor of a Hugging Face model lives in our parameter tree, and how its axes are arranged.

Hugging Face keeps one matrix per layer, output axis first and heads merged with head dim; we keep one stack
per kind, input axis first and heads apart (``model/qwen3.py``). This table is the only place that knows both.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
from jax.sharding import PartitionSpec

from extra_jax.model.config import Qwen3Config

ParamPath = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Arrangement of one tensor: Hugging Face axis ``i`` is our axes ``groups[i]`` merged, in that order.

    ``q_proj`` is ours as ``[D, N, H]`` and theirs as ``[N*H, D]``: groups ``((1, 2), (0,))``. Our shapes here are
    those of one layer, without the stack axis.
    """

    groups: tuple[tuple[int, ...], ...]

    @property
    def _order(self) -> tuple[int, ...]:
        return tuple(axis for group in self.groups for axis in group)

    def hf_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Hugging Face shape of a tensor of our ``shape``."""
        return tuple(math.prod(shape[axis] for axis in group) for group in self.groups)

    def hf_spec(self, spec: PartitionSpec) -> PartitionSpec:
        """Partition of the Hugging Face arrangement under which rearranging to ``spec`` moves nothing between devices.

        Of merged axes only the first may be split, or the pieces would not be slices of the file; if another is,
        the merged axis is whole on every device.
        """
        parts = tuple(spec) + (None,) * (len(self._order) - len(spec))
        whole = [any(parts[axis] is not None for axis in group[1:]) for group in self.groups]
        return PartitionSpec(*(None if w else parts[group[0]] for w, group in zip(whole, self.groups, strict=True)))

    def from_hf(self, x: jax.Array, shape: Sequence[int]) -> jax.Array:
        """Their arrangement -> ours, of ``shape``."""
        order = self._order
        inverse = sorted(range(len(order)), key=order.__getitem__)
        return x.reshape([shape[axis] for axis in order]).transpose(inverse)

    def to_hf(self, x: jax.Array) -> jax.Array:
        """Our arrangement -> theirs."""
        return x.transpose(self._order).reshape(self.hf_shape(x.shape))


@dataclasses.dataclass(frozen=True)
class HFTensor:
    """One tensor of a checkpoint.

    Attributes:
        name: its key in the safetensors file.
        path: our parameter.
        layer: index into the stack of layers, or ``None`` for a parameter outside of the layers.
        layout: arrangement of the axes.
    """

    name: str
    path: ParamPath
    layer: int | None
    layout: Layout


_SAME_1D = Layout(((0,),))
_SAME_2D = Layout(((0,), (1,)))
_SWAPPED = Layout(((1,), (0,)))  # [in, out] <-> [out, in]
_HEADS_OUT = Layout(((1, 2), (0,)))  # [D, N, H] <-> [N*H, D]
_HEADS_IN = Layout(((2,), (0, 1)))  # [N, H, D] <-> [D, N*H]
_HEADS_BIAS = Layout(((0, 1),))  # [N, H] <-> [N*H]

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"

# In the order of a torch state_dict: (their module, our module, arrangement of the weight, of the bias or None).
_LAYER: tuple[tuple[str, str, Layout, Layout | None], ...] = (
    ("self_attn.q_proj", "attention.q_proj", _HEADS_OUT, _HEADS_BIAS),
    ("self_attn.k_proj", "attention.k_proj", _HEADS_OUT, _HEADS_BIAS),
    ("self_attn.v_proj", "attention.v_proj", _HEADS_OUT, _HEADS_BIAS),
    ("self_attn.o_proj", "attention.o_proj", _HEADS_IN, _SAME_1D),
    ("self_attn.q_norm", "attention.q_norm", _SAME_1D, None),
    ("self_attn.k_norm", "attention.k_norm", _SAME_1D, None),
    ("mlp.gate_proj", "mlp.gate_proj", _SWAPPED, _SAME_1D),
    ("mlp.up_proj", "mlp.up_proj", _SWAPPED, _SAME_1D),
    ("mlp.down_proj", "mlp.down_proj", _SWAPPED, _SAME_1D),
    ("input_layernorm", "input_norm", _SAME_1D, None),
    ("post_attention_layernorm", "post_attention_norm", _SAME_1D, None),
)


def hf_tensors(config: Qwen3Config) -> list[HFTensor]:
    """Every tensor of the checkpoint, in the order of a ``state_dict`` of ``transformers``; a tied head is not one."""
    tensors = [HFTensor(EMBEDDING, ("embed",), None, _SAME_2D)]
    for layer in range(config.num_hidden_layers):
        tensors += _layer_tensors(layer, config)
    tensors.append(HFTensor("model.norm.weight", ("final_norm", "scale"), None, _SAME_1D))
    if not config.tie_word_embeddings:
        tensors.append(HFTensor(HEAD, ("lm_head",), None, _SWAPPED))
    return tensors


def _layer_tensors(layer: int, config: Qwen3Config) -> list[HFTensor]:
    tensors = []
    for theirs, ours, weight_layout, bias_layout in _LAYER:
        if ours.endswith(("q_norm", "k_norm")) and not config.family.qk_norm:
            continue
        name, path = f"model.layers.{layer}.{theirs}", ("layers", *ours.split("."))
        leaf = "scale" if ours.endswith("norm") else "kernel"
        tensors.append(HFTensor(f"{name}.weight", (*path, leaf), layer, weight_layout))
        if bias_layout is not None and _has_bias(ours, config):
            tensors.append(HFTensor(f"{name}.bias", (*path, "bias"), layer, bias_layout))
    return tensors


def _has_bias(module: str, config: Qwen3Config) -> bool:
    if module.startswith("mlp"):
        return config.mlp_bias
    return config.attention_bias if module == "attention.o_proj" else config.qkv_bias
