"""Hugging Face folders in and out: byte for byte, on every mesh, within two tensors of host memory."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tracemalloc
import weakref
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM

from extra_jax.config import MeshConfig
from extra_jax.model import hf, hf_files
from extra_jax.model.config import Qwen3Config
from extra_jax.model.hf import save_params
from extra_jax.model.hf_names import hf_tensors
from model.torch_qwen3 import SHARD, SMALL, assert_equal, load_ours, our_logits, raw_tensors, torch_logits

TOKENS = np.random.default_rng(0).integers(0, SMALL.vocab_size, (2, 12))


def _logits(model):
    return np.asarray(our_logits(model.graphdef, model.params, TOKENS, np.broadcast_to(np.arange(12), TOKENS.shape)))


@pytest.mark.parametrize("sharded", [True, False], ids=["sharded", "single"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_round_trip_is_byte_identical(sources, tmp_path, tied, dtype, sharded):
    source, target = sources[tied, dtype, sharded], tmp_path / "out"
    ours = load_ours(source, param_dtype=dtype)
    save_params(target, ours.params, ours.config, dtype=dtype, max_shard_bytes=SHARD if sharded else 5e9)
    expected, actual = raw_tensors(source), raw_tensors(target)
    assert actual.keys() == expected.keys()
    assert ("lm_head.weight" in actual) is not tied
    assert actual == expected
    if sharded:
        index = json.loads((target / hf_files.INDEX).read_text())
        assert index["metadata"] == json.loads((source / hf_files.INDEX).read_text())["metadata"]
        assert index["weight_map"].keys() == expected.keys()
        assert len({*index["weight_map"].values()}) == len([*target.glob("model-*-of-*.safetensors")]) > 2
    else:
        name = hf_files.SINGLE
        assert (target / name).read_bytes() == (source / name).read_bytes()


def test_every_bit_pattern_of_a_weight_survives(sources, tmp_path):
    """Negative zeros, subnormals and infinities, which arithmetic on the way might flush."""
    source = Path(shutil.copytree(sources[True, "bfloat16", False], tmp_path / "in"))
    tensors = load_file(source / hf_files.SINGLE)
    embedding = tensors["model.embed_tokens.weight"].view(np.uint16)
    finite = np.array([b for b in range(1 << 16) if (b & 0x7FFF) <= 0x7F80], np.uint16)  # all but NaN
    embedding.flat[:] = np.random.default_rng(0).choice(finite, embedding.size)
    query = tensors["model.layers.1.self_attn.q_proj.weight"].view(np.uint16)
    query.flat[:512] = [*range(128), *range(0x8000, 0x8000 + 128), *range(0x7F00, 0x7F00 + 128), *range(128)]
    save_file(tensors, source / hf_files.SINGLE, metadata={"format": "pt"})
    for param_dtype in ("bfloat16", "float32"):  # f32 holds every bf16
        ours = load_ours(source, param_dtype=param_dtype)
        save_params(tmp_path / param_dtype, ours.params, ours.config, dtype="bfloat16")
        assert raw_tensors(tmp_path / param_dtype) == raw_tensors(source)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_export_loads_in_transformers_with_equal_logits(sources, tmp_path, tied, dtype):
    ours = load_ours(sources[tied, dtype, True], param_dtype=dtype)
    save_params(tmp_path / "out", ours.params, ours.config, dtype=dtype, max_shard_bytes=SHARD)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", attn_implementation="eager")
    original = AutoModelForCausalLM.from_pretrained(sources[tied, dtype, True], attn_implementation="eager")
    assert loaded.dtype == original.dtype == getattr(torch, dtype)
    assert loaded.state_dict().keys() == original.state_dict().keys()
    np.testing.assert_array_equal(torch_logits(loaded.float(), TOKENS), torch_logits(original.float(), TOKENS))
    np.testing.assert_allclose(_logits(ours), torch_logits(loaded, TOKENS), rtol=0, atol=1e-4)


def test_float16_files_load_and_save(sources, tmp_path):
    ours = load_ours(sources[True, "float32", False])
    save_params(tmp_path / "half", ours.params, ours.config, dtype="float16")
    half = load_ours(tmp_path / "half")
    assert_equal(half.params, jax.tree.map(lambda x: x.astype(jnp.float16).astype(jnp.float32), ours.params))


@pytest.mark.parametrize("axes", [dict(fsdp=4, tensor=2), dict(data=2, fsdp=2, tensor=2)])
def test_load_and_save_on_a_mesh_equal_one_device(sources, tmp_path, axes):
    source = sources[False, "bfloat16", True]
    one, many = load_ours(source), load_ours(source, MeshConfig(**axes))
    assert_equal(many.params, one.params)
    kernel = many.params["layers"]["attention"]["q_proj"]["kernel"].get_value()
    ways = axes["fsdp"] * axes.get("tensor", 1)
    assert kernel.addressable_shards[0].data.size == kernel.size // ways
    save_params(tmp_path / "out", many.params, many.config, dtype="bfloat16")
    assert raw_tensors(tmp_path / "out") == raw_tensors(source)


def test_weights_in_any_layout_are_saved(sources, tmp_path):
    """Also with a head dim that is split, which no slice of the file corresponds to."""
    ours = load_ours(sources[True, "float32", False], MeshConfig(fsdp=4, tensor=2))
    mesh = ours.params["embed"].get_value().sharding.mesh
    params = jax.tree.map(
        lambda x: jax.device_put(x, NamedSharding(mesh, PartitionSpec(*[None] * (x.ndim - 1), "tensor"))), ours.params
    )
    save_params(tmp_path / "out", params, ours.config, dtype="float32")
    assert raw_tensors(tmp_path / "out") == raw_tensors(sources[True, "float32", False])


def test_two_processes_load_and_export_one_model(sources, tmp_path):
    """Each holds half of the weights, process 0 writes, and a refusal reaches both."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    source, script = sources[False, "float32", True], Path(__file__).with_name("two_processes.py")
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    processes = [
        subprocess.Popen(
            [sys.executable, script, address, str(process), source, tmp_path / "out"],
            env=environment | {"JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    assert "already holds a model" in outputs[0]
    assert "process 0 failed" in outputs[1]
    assert raw_tensors(tmp_path / "out") == raw_tensors(source)
    assert (tmp_path / "out" / hf_files.INDEX).exists()


def _random_folder(folder: Path, config: Qwen3Config) -> Path:
    """A model folder written without a model."""
    rng, tensors = np.random.default_rng(0), {}
    shapes = {path: leaf.shape for path, leaf in hf._flatten(hf.abstract_params(config, "float32"))[0].items()}
    for tensor in hf_tensors(config):
        shape = tensor.layout.hf_shape(shapes[tensor.path][tensor.layer is not None :])
        tensors[tensor.name] = rng.standard_normal(shape, np.float32)
    folder.mkdir()
    save_file(tensors, folder / hf_files.SINGLE, metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config.to_hf()))
    return folder


def test_host_memory_stays_within_two_tensors(tmp_path, monkeypatch):
    """Counts the live arrays that came from files, and everything else that Python allocates."""
    config = Qwen3Config(2048, 256, 1024, 12, 8, 4, 64)
    folder, mesh = _random_folder(tmp_path / "in", config), MeshConfig(fsdp=4, tensor=2)
    largest, total = 4 * 2048 * 256, 4 * config.num_parameters
    assert total > 20 * largest
    live = top = read_bytes = 0
    read = hf_files.Checkpoint.read

    def counted(self, name, index):
        nonlocal live, top, read_bytes
        array = read(self, name, index)
        live, read_bytes = live + array.nbytes, read_bytes + array.nbytes
        top = max(top, live)
        weakref.finalize(array, release, array.nbytes)
        return array

    def release(size):
        nonlocal live
        live -= size

    def peak(work) -> int:
        tracemalloc.start()
        work()
        allocated = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return allocated

    ours = load_ours(folder, mesh)  # compiles
    monkeypatch.setattr(hf_files.Checkpoint, "read", counted)
    load_peak = peak(lambda: load_ours(folder, mesh))
    assert read_bytes == total  # each tensor once
    assert 0 < top <= 2 * largest
    save_params(tmp_path / "warm", ours.params, config, dtype="float32")
    save_peak = peak(lambda: save_params(tmp_path / "out", ours.params, config, dtype="float32"))
    slack = 1 << 20  # headers, names, Python
    assert load_peak <= 2 * largest + slack
    assert save_peak <= 2 * largest + slack
