"""The reference: models of ``transformers`` in torch on the CPU, with random weights that make every term count."""

import copy
import dataclasses
import functools
from pathlib import Path

import jax
import numpy as np
import torch
from flax import nnx
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from extra_jax.config import MeshConfig, ModelConfig
from extra_jax.model.config import Qwen3Config
from extra_jax.model.load import Model, build_model
from extra_jax.model.rope_scaling import Llama3Scaling, YarnScaling
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

# One of each kind of model, as changes of ``SMALL``; the contexts are those of tokens in the tests.
LLAMA3 = Llama3Scaling(8.0, 1.0, 4.0, 32)
YARN = YarnScaling(4.0, 32)
FAMILIES = {
    name: {"num_hidden_layers": 2} | changes
    for name, changes in {
        "qwen2": dict(model_type="qwen2"),
        "qwen2-untied": dict(model_type="qwen2", tie_word_embeddings=False, rope_theta=1e4, head_dim=4),
        "llama": dict(model_type="llama", rope_theta=5e5, rms_norm_eps=1e-5, rope_scaling=LLAMA3),
        "llama-untied-biases": dict(
            model_type="llama", tie_word_embeddings=False, attention_bias=True, mlp_bias=True, rope_scaling=LLAMA3
        ),
        "qwen3-yarn": dict(rope_scaling=YARN),
        "qwen2-yarn-stated": dict(
            model_type="qwen2", rope_theta=1e4, rope_scaling=YarnScaling(2.5, 24, attention_factor=1.3, beta_fast=8.0)
        ),
    }.items()
}

SHARD = 40_000  # bytes of a file; several files for a model of this size


def torch_model(seed: int = 0, **changes: object) -> PreTrainedModel:
    """A reference model of ``SMALL`` with ``changes``; activations of size one, norms and biases not trivial."""
    tree = copy.deepcopy(dataclasses.replace(SMALL, **changes).to_hf())
    config = AutoConfig.for_model(**tree)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 2:
                parameter.copy_(noise if "embed" in name else noise * parameter.shape[1] ** -0.5)
            else:
                parameter.copy_(0.3 * noise + ("norm" in name))
    return model


def save_torch(model: PreTrainedModel, folder: Path, max_shard_size: int | str = "5GB") -> Path:
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


def torch_logits(model: PreTrainedModel, tokens: np.ndarray, mask: np.ndarray | None = None, **more: object):
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
