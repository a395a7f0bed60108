"""Families beside Qwen3: files in and out, greedy text, frequencies of long contexts, against ``transformers``."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from extra_jax.config import MeshConfig, config_from_dict
from extra_jax.errors import ExtraError
from extra_jax.model.config import PRESETS, Qwen3Config, preset
from extra_jax.model.hf import save_params
from extra_jax.model.rope import rope
from extra_jax.model.rope_scaling import YarnScaling
from extra_jax.parallel.mesh import make_mesh
from extra_jax.parallel.reshard import reshard_program
from extra_jax.plan.main import model_shape
from extra_jax.rollout.engine import Sampler
from extra_jax.rollout.types import Request, SamplingParams
from model.torch_qwen3 import FAMILIES, SHARD, SMALL, load_ours, raw_tensors, save_torch, torch_logits, torch_model

# How each family lies on disk here: dtype, and whether in several files.
ON_DISK = {
    "qwen2": ("bfloat16", True),
    "qwen2-untied": ("float16", False),
    "llama": ("float16", True),
    "llama-untied-biases": ("float32", True),
    "qwen3-yarn": ("bfloat16", False),
}


@pytest.mark.parametrize("name", ON_DISK)
def test_round_trip_is_byte_identical_and_transformers_reads_the_export(name, tmp_path):
    dtype, sharded = ON_DISK[name]
    reference, size = torch_model(**FAMILIES[name]).to(getattr(torch, dtype)), SHARD if sharded else "5GB"
    source = save_torch(reference, tmp_path / "in", size)
    ours = load_ours(source, param_dtype="float32")  # which holds every bf16 and f16
    save_params(tmp_path / "out", ours.params, ours.config, dtype=dtype, max_shard_bytes=SHARD if sharded else 5e9)
    assert raw_tensors(tmp_path / "out") == raw_tensors(source)
    assert (len([*(tmp_path / "out").glob("*.safetensors")]) > 1) is sharded
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out", attn_implementation="eager", dtype="float32")
    original = AutoModelForCausalLM.from_pretrained(source, attn_implementation="eager", dtype="float32")
    assert type(theirs) is type(reference)
    tokens = np.arange(9)[None]
    np.testing.assert_array_equal(torch_logits(theirs, tokens), torch_logits(original, tokens))
    written, original = AutoConfig.from_pretrained(tmp_path / "out").to_dict(), reference.config.to_dict()
    ignored = {"_name_or_path", "dtype", "bos_token_id", "eos_token_id", "pad_token_id", "architectures"}
    assert {k: v for k, v in written.items() if k not in ignored} == {
        k: v for k, v in original.items() if k not in ignored
    }


@pytest.mark.parametrize("name", ["qwen2", "llama-untied-biases", "qwen3-yarn"])
def test_greedy_tokens_and_their_logprobs_equal_those_of_transformers(name, tmp_path):
    reference = torch_model(**FAMILIES[name])
    ours, mesh, length = load_ours(save_torch(reference, tmp_path)), make_mesh(MeshConfig(), jax.devices()[:1]), 24
    prompts = [[5, 17, 3], [9, 2, 88, 41, 7, 30], [60]]
    sampler = Sampler(
        ours.config,
        ours.graphdef,
        mesh,
        params=SamplingParams(temperature=0.0, max_completion_length=length),
        stop_ids=(SMALL.vocab_size + 1,),
        seed=0,
        max_prompt_length=8,
        slots=4,
        chunk=8,
        dtype="float32",
    )
    weights = reshard_program(ours.params, mesh, dtype="float32")(ours.params)
    rollouts = sampler.generate(weights, [Request(p, 1, i) for i, p in enumerate(prompts)], 0)
    for row, prompt in enumerate(prompts):
        ids = torch.tensor([prompt])
        whole = reference.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=length, pad_token_id=0
        )
        assert rollouts.completion_ids(row).tolist() == whole[0, len(prompt) :].tolist()
        logprobs = torch.tensor(torch_logits(reference, whole.numpy()))[0].log_softmax(-1)
        expected = logprobs[len(prompt) - 1 : -1].gather(-1, whole[0, len(prompt) :, None])[:, 0]
        np.testing.assert_allclose(rollouts.full_logprobs[row], expected, rtol=0, atol=1e-4)


LONG_QWEN3 = dataclasses.replace(preset("0.6B"), rope_scaling=YarnScaling(4.0, 32768))


@pytest.mark.parametrize(
    "config", [preset("Llama-3.1-8B"), preset("Llama-3.2-1B"), LONG_QWEN3], ids=["llama3.1", "llama3.2", "yarn"]
)
def test_published_scalings_turn_as_fast_as_in_transformers(config):
    theirs = AutoConfig.for_model(**config.to_hf())
    expected, magnitude = ROPE_INIT_FUNCTIONS[config.rope_scaling.rope_type](theirs, "cpu")
    cos, sin = rope(jnp.ones((1, 1), int), config.head_dim, config.rope_theta, config.rope_scaling)
    np.testing.assert_allclose(np.hypot(cos, sin), magnitude, rtol=1e-6)
    np.testing.assert_allclose(np.arctan2(sin, cos).ravel(), expected, rtol=1e-5, atol=1e-9)
    plain = rope(jnp.ones((1, 1), int), config.head_dim, config.rope_theta, None)
    assert np.abs(np.arctan2(plain[1], plain[0]).ravel() / expected.numpy()).max() > 3.9  # and that is not nothing


def test_yarn_stretches_the_context():
    assert LONG_QWEN3.context_length == 131072
    assert preset("Llama-3.1-8B").context_length == 131072


# config.json as published, by preset; the files of a family differ in the fields that follow.
QWEN25 = {
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "hidden_size": 896,
    "initializer_range": 0.02,
    "intermediate_size": 4864,
    "max_position_embeddings": 32768,
    "max_window_layers": 21,
    "model_type": "qwen2",
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.43.1",
    "use_cache": True,
    "use_mrope": False,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
LLAMA32 = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.45.0.dev0",
    "use_cache": True,
    "vocab_size": 128256,
}
DISTILLED = dict(
    hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12, tie_word_embeddings=False
)
PUBLISHED = {
    "Qwen2.5-0.5B": QWEN25,
    "R1-Distill-Qwen-1.5B": QWEN25 | DISTILLED | dict(rope_theta=10000, max_position_embeddings=131072),
    "Llama-3.2-1B": LLAMA32,
}
# Parameters of the model cards, in units of 1e9; they count a tied head once.
CARD_PARAMETERS = {
    "Qwen2.5-0.5B": 0.49,
    "Qwen2.5-1.5B": 1.54,
    "Qwen2.5-3B": 3.09,
    "Qwen2.5-7B": 7.62,
    "R1-Distill-Qwen-1.5B": 1.78,
    "Llama-3.2-1B": 1.24,
    "Llama-3.2-3B": 3.21,
    "Llama-3.1-8B": 8.03,
}


def test_published_files_are_the_presets():
    for name, tree in PUBLISHED.items():
        assert Qwen3Config.from_hf(tree) == preset(name)
    assert {name for name, config in PRESETS.items() if config.model_type != "qwen3"} == CARD_PARAMETERS.keys()
    for name, count in CARD_PARAMETERS.items():
        assert round(preset(name).num_parameters / 1e9, 2) == count, name


@pytest.mark.parametrize("name", ["Qwen2.5-0.5B-Instruct", "DeepSeek-R1-Distill-Qwen-1.5B", "models/Llama-3.1-8B"])
def test_a_plan_knows_the_shape_of_a_folder_that_is_not_there(name):
    expected = preset(name.removeprefix("DeepSeek-").removesuffix("-Instruct").removeprefix("models/"))
    assert model_shape(config_from_dict({"model": {"path": name}})) == expected


def test_llama_files_may_leave_out_what_transformers_derives():
    tree = {k: v for k, v in LLAMA32.items() if k not in ("head_dim", "num_key_value_heads")}
    config = Qwen3Config.from_hf(tree | {"rope_scaling": None})
    assert (config.head_dim, config.num_key_value_heads) == (64, 32)


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}


@pytest.mark.parametrize(
    ("tree", "change", "message"),
    [
        (QWEN25, {"use_sliding_window": True}, "use_sliding_window=True"),
        (QWEN25, {"layer_types": ["full_attention"] * 23 + ["sliding_attention"]}, "sliding_attention"),
        (QWEN25, {"model_type": "qwen2_moe"}, "model_type is 'qwen2_moe'; only .*'qwen3', 'qwen2', 'llama'"),
        (QWEN25, {"model_type": ["qwen2"]}, "model_type is"),
        (QWEN25, {"attention_bias": True}, r"\['attention_bias'\].*Qwen2ForCausalLM"),
        (QWEN25, {"use_mrope": True}, r"\['use_mrope'\]"),
        (QWEN25, {"rope_scaling": YARN | {"rope_type": "longrope"}}, "rope_type='longrope'.*'llama3', 'yarn'"),
        (QWEN25, {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "type='dynamic'"),
        (QWEN25, {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, r"lacks \['original_max_position_emb"),
        (QWEN25, {"rope_scaling": YARN | {"factor": 0.5}}, "rope_scaling.factor: .*greater than or equal to 1"),
        (QWEN25, {"rope_scaling": YARN | {"mscale": 0.7}}, "rope_scaling.mscale=0.7"),
        (QWEN25, {"rope_scaling": YARN | {"truncate": False}}, "rope_scaling.truncate=False"),
        (QWEN25, {"rope_scaling": YARN, "rope_parameters": YARN | {"factor": 2.0}}, "rope_parameters=.*but rope_sc"),
        (QWEN25, {"rope_scaling": YARN, "rope_theta": 1.0}, "rope_theta=1.0 with rope_scaling"),
        (LLAMA32, {"num_attention_heads": 24}, "hidden_size=2048 is not a multiple"),
        (LLAMA32, {"rope_scaling": LLAMA32["rope_scaling"] | {"low_freq_factor": 4.0}}, "high_freq_factor=4.0 is not"),
        (LLAMA32, {"num_local_experts": 8}, r"\['num_local_experts'\]"),
    ],
)
def test_what_is_not_computed_is_refused(tree, change, message):
    with pytest.raises(ExtraError, match=f"there/config.json.*{message}"):
        Qwen3Config.from_hf(json.loads(json.dumps(tree | change)), "there/config.json")
