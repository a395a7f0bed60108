"""Hugging Face configurations: the published ones parse, anything that we do not compute is refused."""

import dataclasses
import json

import pytest
from transformers import AutoConfig
from transformers import Qwen3Config as TorchConfig

from extra_jax.errors import ExtraError
from extra_jax.model.config import PRESETS, Qwen3Config, preset

# config.json of Qwen/Qwen3-0.6B as published; the others differ from it in the fields below.
PUBLISHED = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 1024,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "max_position_embeddings": 40960,
    "max_window_layers": 28,
    "model_type": "qwen3",
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}


def _sizes(hidden, intermediate, layers, heads, **more):
    return dict(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        max_window_layers=layers,
        num_attention_heads=heads,
        **more,
    )


DIFFERENCES = {
    "0.6B": {},
    "1.7B": _sizes(2048, 6144, 28, 16),
    "4B": _sizes(2560, 9728, 36, 32),
    "8B": _sizes(4096, 12288, 36, 32, tie_word_embeddings=False),
    "14B": _sizes(5120, 17408, 40, 40, tie_word_embeddings=False),
    "32B": _sizes(5120, 25600, 64, 64, tie_word_embeddings=False),
}
# Parameters of the model cards, in units of 1e9; they count a tied head once.
CARD_PARAMETERS = {"0.6B": 0.6, "1.7B": 1.7, "4B": 4.0, "8B": 8.2, "14B": 14.8, "32B": 32.8}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_published_configs_are_the_presets(name):
    config = Qwen3Config.from_hf(PUBLISHED | DIFFERENCES[name])
    assert config == preset(name)
    assert round(config.num_parameters / 1e9, 1) == CARD_PARAMETERS[name]


def test_2507_models_keep_their_rope_theta():
    tree = PUBLISHED | DIFFERENCES["4B"] | {"rope_theta": 5000000, "max_position_embeddings": 262144}
    expected = dataclasses.replace(preset("4B"), rope_theta=5e6, max_position_embeddings=262144)
    assert Qwen3Config.from_hf(tree) == expected


@pytest.mark.parametrize("name", PRESETS)
def test_to_hf_reads_back_here_and_in_transformers(name):
    config = preset(name)
    assert Qwen3Config.from_hf(config.to_hf()) == config
    theirs = AutoConfig.for_model(**config.to_hf())
    scaling = None if config.rope_scaling is None else dataclasses.asdict(config.rope_scaling)
    assert theirs.rope_parameters == {"rope_theta": config.rope_theta} | (scaling or {"rope_type": "default"})
    # transformers 5 nests rope_parameters and lists layer_types; its own spelling reads back too
    assert Qwen3Config.from_hf(theirs.to_dict()) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "qwen3_moe"}, "model_type is 'qwen3_moe'"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 4.0}}, "rope_scaling"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e6, "factor": 4.0}}, "rope_type='linear'"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"use_sliding_window": True}, "use_sliding_window=True"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding_attention"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"attention_dropout": 0.1}, "attention_dropout"),
        ({"logit_softcap": 30.0}, r"\['logit_softcap'\]"),
        ({"num_key_value_heads": 3}, "not a multiple"),
        (
            {"auto_map": {"AutoModelForCausalLM": "evil.Evil"}},
            r"auto_map names Python code .*evil\.Evil.* not run here",
        ),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config="),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e6}}, r"rope_theta=1000000 but rope_parameters"),
        ({"num_hidden_layers": 10**9}, "less than or equal to 1000"),
        ({"tie_word_embeddings": "false"}, r"tie_word_embeddings: .*valid boolean \(got 'false'\)"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps: .*finite"),
        ({"vocab_size": 256.0}, "vocab_size: .*valid integer"),
        ({"head_dim": None}, "head_dim: .*valid integer"),
        ({"head_dim": 127}, "multiple of 2"),
    ],
)
def test_what_is_not_computed_is_refused(change, message):
    with pytest.raises(ExtraError, match=message):
        Qwen3Config.from_hf(PUBLISHED | change, "there/config.json")


@pytest.mark.parametrize("key", ["rope_theta", "hidden_size", "head_dim", "vocab_size"])
def test_missing_keys_are_named(key):
    tree = {k: v for k, v in PUBLISHED.items() if k != key}
    with pytest.raises(ExtraError, match=f"there/config.json.*{key}"):
        Qwen3Config.from_hf(tree, "there/config.json")


def test_tying_left_out_means_what_it_means_in_transformers():
    tree = {k: v for k, v in PUBLISHED.items() if k != "tie_word_embeddings"}
    assert Qwen3Config.from_hf(tree).tie_word_embeddings is TorchConfig(**tree).tie_word_embeddings is False


def test_from_folder_names_the_file(tmp_path):
    with pytest.raises(ExtraError, match=r"config\.json: no such file"):
        Qwen3Config.from_folder(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ExtraError, match="not valid JSON"):
        Qwen3Config.from_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED))
    assert Qwen3Config.from_folder(tmp_path) == preset("0.6B")


def test_unknown_preset_lists_the_presets():
    with pytest.raises(ExtraError, match=r"0\.6B"):
        preset("0.5B")
