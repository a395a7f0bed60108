"""``config.json`` as files have it: what transformers loads gives its logits here, or is refused with a reason."""

import copy
import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from extra_jax.errors import ExtraError
from extra_jax.model.config import Qwen3Config
from model.torch_qwen3 import SMALL, load_ours, our_logits, save_torch, torch_logits, torch_model

TOKENS = np.random.default_rng(0).integers(0, SMALL.vocab_size, (1, 9))
KINDS = {"qwen3": {}, "qwen2": {"model_type": "qwen2"}, "llama": {"model_type": "llama"}}
BASES = {
    kind: dataclasses.replace(SMALL, **changes, rope_theta=10_000.0).to_hf() | {"rope_theta": 10_000}
    for kind, changes in KINDS.items()
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 500.0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}

# Keys of real files, each with the values that they have there; "ABSENT" leaves the key out.
REAL = {
    "rope_theta": [10_000, 10_000.0, 500.0, "ABSENT", None],
    "rope_parameters": [
        "ABSENT",
        None,
        {"rope_type": "default", "rope_theta": 500.0},
        {"rope_type": "default", "rope_theta": 10_000},
        {"rope_type": "default"},
        {"rope_theta": 500, "partial_rotary_factor": 1.0, "rope_type": "default"},
        YARN,
        YARN | {"attention_factor": 1.5, "beta_fast": 8, "beta_slow": 2.0},
        LLAMA3,
    ],
    "rope_scaling": [
        "ABSENT",
        None,
        {"rope_type": "default"},
        {"type": "default", "rope_type": "default"},
        {"rope_type": "default", "rope_theta": 500.0},
        {"rope_type": "linear", "factor": 2.0},
        {"type": "yarn", "factor": 2, "original_max_position_embeddings": 16},
        YARN | {"mscale": 1.0, "mscale_all_dim": 1.0},
        YARN | {"truncate": False},
        LLAMA3,
        LLAMA3 | {"factor": 2, "high_freq_factor": 32},
    ],
    "rms_norm_eps": [1e-6, 1e-2, "ABSENT"],
    "attention_bias": [False, "ABSENT"],
    "head_dim": [16, "ABSENT", None],
    "num_key_value_heads": [4, "ABSENT", None],
    "pretraining_tp": ["ABSENT", 1],
    "layer_types": ["ABSENT", None, ["full_attention"] * 3, ["full_attention"] * 2, ["sliding_attention"] * 3],
    "sliding_window": [None, 4, 32768, "ABSENT"],
    "use_sliding_window": [False, "ABSENT", True],
    "max_window_layers": [28, 1, "ABSENT"],
    "hidden_act": ["silu", "ABSENT", "gelu"],
    "attention_dropout": [0.0, 0, "ABSENT"],
    "initializer_range": [0.02, "ABSENT"],
    "_attn_implementation_autoset": ["ABSENT", True],
    "_name_or_path": ["ABSENT", "Qwen/Qwen3-8B"],
    "unsloth_fixed": ["ABSENT", True],
    "unsloth_version": ["ABSENT", "2025.5.1"],
    "quantization_config": ["ABSENT", None],
    "gradient_checkpointing": ["ABSENT", True, False],
    "use_cache": [True, False],
    "eos_token_id": ["ABSENT", 5, [5, 7], None],
    "pad_token_id": ["ABSENT", 0, None],
    "torch_dtype": ["ABSENT", "float32"],
    "mlp_bias": ["ABSENT", False],
    "use_mrope": ["ABSENT", False],
    "is_decoder": ["ABSENT", False],
    "architectures": [["Qwen3ForCausalLM"], "ABSENT"],
    "max_position_embeddings": [512, 40960, "ABSENT"],
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model of each family."""
    folders = {
        kind: save_torch(torch_model(rope_theta=10_000.0, **changes), tmp_path_factory.mktemp(f"fuzz-{kind}"))
        for kind, changes in KINDS.items()
    }
    yield folders
    for folder in folders.values():
        shutil.rmtree(folder)


@pytest.fixture
def folder(folders):
    return folders["qwen3"]


def changed(kind="qwen3", /, **changes):
    tree = copy.deepcopy(BASES[kind] | changes)
    return {key: value for key, value in tree.items() if value != "ABSENT"}


def assert_same_logits_or_refused(folder, tree):
    (folder / "config.json").write_text(json.dumps(tree))
    try:
        ours = load_ours(folder)
    except ExtraError as error:
        return str(error)
    theirs = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    actual = our_logits(ours.graphdef, ours.params, TOKENS, np.arange(9)[None])
    np.testing.assert_allclose(np.asarray(actual), torch_logits(theirs, TOKENS), rtol=0, atol=2e-4)
    return None


@pytest.mark.parametrize(
    "changes",
    [
        {"_attn_implementation_autoset": True},
        {"unsloth_fixed": True, "unsloth_version": "2025.5.1"},
        {"quantization_config": None},
        {"gradient_checkpointing": True, "use_cache": False},
        {"rope_theta": "ABSENT", "rope_scaling": {"rope_type": "default", "rope_theta": 500.0}},
        {"rope_scaling": {"type": "default", "rope_type": "default"}},
        {"rope_theta": 500, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
        {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 1.0}},
        {"layer_types": ["full_attention"] * 3, "sliding_window": 4, "max_window_layers": 1},
        {"mlp_bias": False, "temperature": 0.6, "tokenizer_class": "Qwen2Tokenizer", "is_decoder": False},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_harmless_keys_load_with_the_logits_of_transformers(folder, changes):
    assert assert_same_logits_or_refused(folder, changed(**changes)) is None


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    st.sampled_from([*KINDS]),
    st.fixed_dictionaries({}, optional={key: st.sampled_from(values) for key, values in REAL.items()}),
)
def test_what_files_carry_gives_the_logits_of_transformers_or_is_refused(folders, kind, changes):
    assert_same_logits_or_refused(folders[kind], changed(kind, **changes))


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
) | st.sampled_from(["128", "false", "silu", 0, -1, 1, 1.0, 10**9, 10**400, float("nan"), float("inf"), [], {}])
SCALINGS = st.builds(
    lambda base, changes: base | changes,
    st.sampled_from([YARN, LLAMA3]),
    st.dictionaries(st.sampled_from([*YARN, *LLAMA3, "attention_factor", "beta_fast", "mscale"]), JUNK, max_size=2),
)
FIELDS = [field.name for field in dataclasses.fields(Qwen3Config)]
KEYS = st.sampled_from(
    [*FIELDS, "rope_parameters", "rope_scaling", "layer_types", "hidden_act", "use_sliding_window", "attention_dropout"]
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.sampled_from([*KINDS]),
    st.dictionaries(KEYS | st.text(max_size=8), JUNK | SCALINGS | st.just("ABSENT"), min_size=1, max_size=3),
)
def test_any_value_under_any_key_is_read_as_transformers_does_or_refused(kind, changes):
    tree = changed(kind, **changes)
    try:
        ours = Qwen3Config.from_hf(tree)
    except ExtraError:
        return
    try:
        theirs = AutoConfig.for_model(**copy.deepcopy(tree))
    except StrictDataclassFieldValidationError:  # an integer where they want a float, which JSON does not tell apart
        return
    expected = {name: getattr(theirs, name, None) for name in FIELDS}
    rope = dict(theirs.rope_parameters)
    expected["rope_theta"] = rope["rope_theta"]
    if ours.rope_scaling is None:
        assert rope["rope_type"] == "default"
    else:
        stated = {name: value for name, value in dataclasses.asdict(ours.rope_scaling).items() if name in rope}
        assert {name: rope[name] for name in stated} == stated
    for name in ("rope_scaling", *({"attention_bias", "mlp_bias"} - set(ours.family.switches))):
        del expected[name]
    if kind == "qwen2" and "head_dim" not in tree:
        del expected["head_dim"]  # their model derives it
    if "max_position_embeddings" not in tree:  # bounds the context, not the computation
        expected.pop("max_position_embeddings")
    assert dataclasses.asdict(ours) | expected == dataclasses.asdict(ours)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.binary(max_size=40) | JUNK.map(json.dumps).map(str.encode) | st.just(b"[" * 100_000))
def test_any_bytes_as_config_json_are_refused(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp() / "any_config"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ExtraError, match=r"config\.json"):
        Qwen3Config.from_folder(folder)
