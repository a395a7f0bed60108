"""Damaged or wrong Hugging Face folders are refused with file, tensor and remedy, before anything is loaded."""

import json

import numpy as np
import pytest
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
    with pytest.raises(ExtraError, match="weight_map"):
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
