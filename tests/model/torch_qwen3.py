"""The reference: ``transformers``' Qwen3 in torch on the CPU, with random weights that make every term count."""

import dataclasses
import functools
from pathlib import Path

import jax
import numpy as np
import torch
from flax import nnx
from transformers import Qwen3Config as TorchConfig
from transformers import Qwen3ForCausalLM

from extra_jax.config import MeshConfig, ModelConfig
from extra_jax.model.config import Qwen3Config
from extra_jax.model.load import Model, build_model
from extra_jax.parallel.mesh import make_mesh

SMALL = Qwen3Config(
    vocab_size=96,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=16,
    max_position_embeddings=512,
)

SHARD = 40_000  # bytes of a file; several files for a model of this size


def torch_model(seed: int = 0, **changes: object) -> Qwen3ForCausalLM:
    """A reference model of ``SMALL`` with ``changes``; activations of size one, norms and biases not trivial."""
    config = TorchConfig(**dataclasses.replace(SMALL, **changes).to_hf(), attn_implementation="eager")
    model = Qwen3ForCausalLM(config).float().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 2:
                parameter.copy_(noise if "embed" in name else noise * parameter.shape[1] ** -0.5)
            else:
                parameter.copy_(0.3 * noise + ("norm" in name))
    return model


def save_torch(model: Qwen3ForCausalLM, folder: Path, max_shard_size: int | str = "5GB") -> Path:
    """The folder as ``transformers`` writes it."""
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    return folder


def load_ours(folder: Path, mesh: MeshConfig | None = None, **settings: object) -> Model:
    """Our model of a folder, on one device or on a mesh over all."""
    devices = jax.devices()[:1] if mesh is None else None
    return build_model(ModelConfig(path=str(folder), **settings), make_mesh(mesh or MeshConfig(), devices))


@functools.partial(jax.jit, static_argnames=("graphdef", "dtype"))
def our_logits(graphdef, params, tokens, positions, segment_ids=None, dtype="float32"):
    """f32 logits ``[B, T, V]``."""
    model = nnx.merge(graphdef, params)
    hidden, _ = model(tokens, positions, segment_ids=segment_ids, dtype=dtype)
    return model.logits(hidden)


def torch_logits(model: Qwen3ForCausalLM, tokens: np.ndarray, mask: np.ndarray | None = None, **more: object):
    """Logits ``[B, T, V]`` as numpy."""
    with torch.no_grad():
        mask = None if mask is None else torch.tensor(mask)
        return model(torch.tensor(tokens), attention_mask=mask, **more).logits.numpy()


def raw_tensors(folder: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Every tensor of a folder as (dtype, shape, bytes), read by the safetensors library."""
    from safetensors import safe_open

    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118
                value = file.get_tensor(name)
                tensors[name] = (str(value.dtype), value.shape, value.tobytes())
    return tensors


def assert_equal(a: object, b: object) -> None:
    """Two trees hold the same numbers, whatever their layouts."""
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)
