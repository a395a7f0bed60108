"""Damaged or wrong Hugging Face folders are refused with file, tensor and remedy, before anything is loaded."""

import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import extra_jax
from extra_jax.config import MeshConfig, ModelConfig
from extra_jax.errors import ExtraError
from extra_jax.model import hf, hf_files
from extra_jax.model.hf import save_params
from extra_jax.model.load import build_model
from extra_jax.parallel.mesh import make_mesh
from model.torch_qwen3 import assert_equal, load_ours, raw_tensors


def _rewrite(folder, change):
    """Applies ``change`` to the tensors of a single-file model."""
    tensors = load_file(folder / hf_files.SINGLE)
    change(tensors)
    save_file(tensors, folder / hf_files.SINGLE, metadata={"format": "pt"})


def _rename(tensors, old, new):
    tensors[new] = tensors.pop(old)


K_PROJ = "model.layers.1.self_attn.k_proj.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(K_PROJ), rf"model\.safetensors: 1 tensors .* missing: {K_PROJ}"),
        (lambda t: _rename(t, "model.norm.weight", "norm.weight"), r"missing: model\.norm\.weight"),
        (
            lambda t: t.update({"model.layers.3.mlp.up_proj.weight": t["model.layers.2.mlp.up_proj.weight"].copy()}),
            r"model\.safetensors: 1 tensors .* no place for: model\.layers\.3\.mlp\.up_proj\.weight",
        ),
        (
            lambda t: t.update({K_PROJ: np.ascontiguousarray(t[K_PROJ].T)}),
            rf"model\.safetensors: tensor '{K_PROJ}' has shape \[32, 64\].* asks for \[64, 32\]",
        ),
        (lambda t: t.update({K_PROJ: t[K_PROJ].astype(np.float64)}), rf"tensor '{K_PROJ}' has dtype F64"),
        (lambda t: t.update({K_PROJ: t[K_PROJ].astype(np.int8)}), rf"tensor '{K_PROJ}' has dtype I8"),
        (
            lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"] + 1e-3}),
            r"'lm_head\.weight' differs .* tie_word_embeddings",
        ),
        (
            lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"][:-1].copy()}),
            r"'lm_head\.weight' differs",
        ),
    ],
    ids=["missing", "renamed", "extra", "misshapen", "float64", "int8", "other-head", "short-head"],
)
def test_wrong_tensors_are_named(folder, change, message):
    _rewrite(folder, change)
    with pytest.raises(ExtraError, match=message):
        load_ours(folder)


def test_a_head_that_repeats_the_tied_embedding_is_dropped(folder, tmp_path):
    """The published 0.6B and 1.7B files hold it."""
    expected = load_ours(folder)
    _rewrite(folder, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].copy()}))
    ours = load_ours(folder)
    assert_equal(ours.params, expected.params)
    save_params(tmp_path / "out", ours.params, ours.config)
    assert "lm_head.weight" not in raw_tensors(tmp_path / "out")


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (-1, r"model\.safetensors: not a whole .* tensor 'model\.norm\.weight' is cut off"),
        (20_000, r"tensor 'model\.layers\.\d\.[a-z_.]+weight' is cut off"),
        (100, "not a whole safetensors file"),
        (0, "not a whole safetensors file"),
    ],
)
def test_truncated_files_are_named(folder, keep, message):
    path = folder / hf_files.SINGLE
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ExtraError, match=message):
        load_ours(folder)


def _edit_index(folder, change):
    path = folder / hf_files.INDEX
    tree = json.loads(path.read_text())
    change(tree["weight_map"])
    path.write_text(json.dumps(tree))


def test_a_missing_shard_is_named(sharded_folder):
    name = "model-00002-of-"
    next(sharded_folder.glob(f"{name}*")).unlink()
    with pytest.raises(ExtraError, match=rf"index\.json: tensor 'model\.[a-z0-9_.]+' is placed in {name}.* missing"):
        load_ours(sharded_folder)


def test_an_index_that_disagrees_with_its_files_is_refused(sharded_folder):
    original = (sharded_folder / hf_files.INDEX).read_text()
    _edit_index(sharded_folder, lambda placed: placed.pop(K_PROJ))
    with pytest.raises(ExtraError, match=rf"holds tensor '{K_PROJ}', but .* does not list it"):
        load_ours(sharded_folder)
    (sharded_folder / hf_files.INDEX).write_text(original)
    other = next(file for file in json.loads(original)["weight_map"].values() if "00001" in file)
    _edit_index(sharded_folder, lambda placed: placed.update({"model.ghost": other}))
    with pytest.raises(ExtraError, match=r"tensor 'model\.ghost' is not in model-00001"):
        load_ours(sharded_folder)
    (sharded_folder / hf_files.INDEX).write_text("[]")
    with pytest.raises(ExtraError, match="expected a JSON object"):
        load_ours(sharded_folder)


def test_a_folder_with_two_sets_of_weights_is_refused(sharded_folder):
    (sharded_folder / hf_files.SINGLE).touch()
    with pytest.raises(ExtraError, match="holds both"):
        load_ours(sharded_folder)


def test_a_folder_without_safetensors_is_refused(folder):
    (folder / hf_files.SINGLE).rename(folder / "pytorch_model.bin")
    with pytest.raises(ExtraError, match=r"neither model\.safetensors nor"):
        load_ours(folder)


def test_nothing_is_loaded_before_all_is_checked(folder, monkeypatch):
    _rewrite(folder, lambda t: t.pop("model.norm.weight"))
    monkeypatch.setattr(hf, "_allocate", lambda *_: pytest.fail("device memory was taken"))
    with pytest.raises(ExtraError, match="missing"):
        load_ours(folder)


def test_model_path_is_checked(tmp_path, monkeypatch):
    monkeypatch.setattr(extra_jax, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(ExtraError, match=r"model\.path=tiny-base: .*tiny_base is not a folder; this installation"):
        build_model(ModelConfig(path="tiny-base"), make_mesh(MeshConfig()))
    for path, message in [(str(tmp_path / "none"), "not a folder"), ("gs://bucket/model", "not a folder")]:
        with pytest.raises(ExtraError, match=rf"model\.path={path}: .*{message}"):
            build_model(ModelConfig(path=path), make_mesh(MeshConfig()))


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ('{"weight_map": ["a"]}', "not an index with a weight_map"),
        ('{"weight_map": {"a": 5}}', "not an index with a weight_map"),
        ("{}", "not an index with a weight_map"),
        (b"\xff\xfe\x00", "not UTF-8"),
        ("[" * 100_000, "nested too deep"),
        ('{"weight_map": {"a": "../../../etc/passwd"}}', r"'a' is placed in .* outside of the folder"),
        ('{"weight_map": {"a": "/etc/passwd"}}', r"'a' is placed in .* outside of the folder"),
        (json.dumps({"weight_map": {"a": "x" * 300}}), r"'a' is placed in x+, which is missing"),
        ('{"weight_map": {"a": "."}}', "not an ordinary file"),
    ],
)
def test_a_broken_index_is_named(sharded_folder, index, message):
    (sharded_folder / hf_files.INDEX).write_bytes(index if isinstance(index, bytes) else index.encode())
    with pytest.raises(ExtraError, match=message):
        load_ours(sharded_folder)


def test_what_changes_no_weight_is_no_error(sharded_folder):
    """``./`` before the files of an index, a file that it does not list, and buffers that old converters saved."""
    expected = load_ours(sharded_folder).params
    _edit_index(sharded_folder, lambda placed: placed.update({name: f"./{file}" for name, file in placed.items()}))
    save_file({"norm.weight": np.ones(3, np.float32)}, sharded_folder / "consolidated.safetensors")
    assert_equal(load_ours(sharded_folder).params, expected)
    shard, buffer = next(sharded_folder.glob("model-00002*")), "model.layers.0.self_attn.rotary_emb.inv_freq"
    save_file(load_file(shard) | {buffer: np.ones(8, np.float32)}, shard)
    _edit_index(sharded_folder, lambda placed: placed.update({buffer: shard.name}))
    assert_equal(load_ours(sharded_folder).params, expected)


@pytest.mark.parametrize("name", ["model.norm.weight", K_PROJ, "model.embed_tokens.weight"])
def test_weights_with_nan_are_refused(folder, name):
    def spoil(tensors):
        tensors[name].flat[3] = np.nan

    _rewrite(folder, spoil)
    with pytest.raises(ExtraError, match=rf"model\.safetensors: 1 of \d+ tensors hold NaN: {name}"):
        load_ours(folder)


def test_weights_that_are_a_pipe_or_a_folder_are_refused(folder):
    path = folder / hf_files.SINGLE
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ExtraError, match="not an ordinary file"):
        load_ours(folder)
    path.unlink()
    path.mkdir()
    with pytest.raises(ExtraError, match="not an ordinary file"):
        load_ours(folder)


NUMBERS = st.integers(-1, 2**64) | st.sampled_from([0, 64, 128]) | st.floats() | st.none()
ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "BF16", "I8", "F4", "x", 5, None]),
        "shape": st.lists(NUMBERS, max_size=3) | NUMBERS,
        "data_offsets": st.lists(NUMBERS, max_size=3) | NUMBERS,
    },
)
HEADER = (
    st.dictionaries(st.sampled_from(["model.norm.weight", "__metadata__", "é", ""]), ENTRY | NUMBERS, max_size=3)
    .map(json.dumps)
    .map(str.encode)
) | st.sampled_from([b"[1, 2]", b"null", b"{", b"[" * 100_000, b'{"a":' * 10_000, b'{"\\ud800": {}}', b"\xff\xfe"])


def _open_any(folder, file, content):
    """Opens a folder of this one file; only an ``ExtraError`` that names it is a refusal."""
    folder.mkdir(exist_ok=True)
    (folder / file).write_bytes(content)
    try:
        checkpoint = hf_files.Checkpoint(folder)
    except ExtraError as error:
        assert file in str(error)  # noqa: PT017  (the refusal is one of two right outcomes)
    else:
        for name in checkpoint.names:
            assert checkpoint.file(name).name == file
            checkpoint.shape(name), checkpoint.dtype_name(name)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(HEADER, st.none() | st.integers(0, 2**64 - 1), st.sampled_from([0, 64, 128]))
def test_any_header_opens_or_is_refused(tmp_path_factory, header, length, size):
    start = (len(header) if length is None else length).to_bytes(8, "little")
    _open_any(tmp_path_factory.getbasetemp() / "any_header", hf_files.SINGLE, start + header + bytes(size))


VALUES = st.none() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=2)
INDEXES = st.dictionaries(
    st.sampled_from(["weight_map", "metadata"]), st.dictionaries(st.text(max_size=5), VALUES) | VALUES
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(INDEXES.map(json.dumps).map(str.encode) | st.binary(max_size=20))
def test_any_index_is_refused_or_lists_nothing(tmp_path_factory, content):
    _open_any(tmp_path_factory.getbasetemp() / "any_index", hf_files.INDEX, content)
