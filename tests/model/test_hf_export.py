"""An export is whole or absent, and holds all that a model needs."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from extra_jax import files
from extra_jax.errors import ExtraError
from extra_jax.model import hf
from extra_jax.model.config import Qwen3Config
from extra_jax.model.hf import save_params
from model.torch_qwen3 import load_ours, raw_tensors


class FakeTokenizer:
    stop_ids = (5, 7)
    pad_id = 0

    def save(self, directory):
        (Path(directory) / "tokenizer.json").write_text("{}")


def test_export_holds_settings_and_tokenizer(tiny, tmp_path):
    generation = {"do_sample": True, "temperature": 0.6, "bos_token_id": 3}
    save_params(tmp_path / "out", tiny.params, tiny.config, tokenizer=FakeTokenizer(), generation_config=generation)
    names = {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    config = json.loads((tmp_path / "out/config.json").read_text())
    ids = {"bos_token_id": 3, "eos_token_id": [5, 7], "pad_token_id": 0}
    assert {key: config[key] for key in ids} == ids
    assert config["dtype"] == config["torch_dtype"] == "bfloat16"
    assert Qwen3Config.from_hf(config) == tiny.config
    assert json.loads((tmp_path / "out/generation_config.json").read_text()) == ids | generation
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert loaded.generation_config.eos_token_id == [5, 7]
    assert loaded.dtype == torch.bfloat16


def test_sampling_defaults_of_the_folder_survive(tiny, tmp_path):
    """As in Qwen3's folders; token ids are those of the tokenizer."""
    defaults = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "bos_token_id": 3}

    class Loaded(FakeTokenizer):
        def save(self, directory):
            settings = defaults | {"eos_token_id": 9, "transformers_version": "4.51.0"}
            (Path(directory) / "generation_config.json").write_text(json.dumps(settings))

    save_params(tmp_path / "out", tiny.params, tiny.config, tokenizer=Loaded())
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out").generation_config
    assert {key: getattr(loaded, key) for key in defaults} == defaults
    assert (loaded.eos_token_id, loaded.pad_token_id) == ([5, 7], 0)


def test_a_dtype_that_files_cannot_have_is_refused(tiny, tmp_path):
    with pytest.raises(ExtraError, match=r"dtype 'int8'.*bfloat16"):
        save_params(tmp_path / "out", tiny.params, tiny.config, dtype="int8")
    assert not [*tmp_path.iterdir()]


def test_existing_folders_are_not_overwritten_by_accident(tiny, tmp_path):
    target = tmp_path / "out"
    target.mkdir()  # an empty one is fine
    save_params(target, tiny.params, tiny.config)
    (target / "leftover").touch()
    with pytest.raises(ExtraError, match=r"already holds a model.*overwrite=True"):
        save_params(target, tiny.params, tiny.config)
    save_params(target, tiny.params, tiny.config, overwrite=True)
    assert not (target / "leftover").exists()
    precious = tmp_path / "home"
    precious.mkdir()
    (precious / "thesis.tex").touch()
    with pytest.raises(ExtraError, match="is not a model folder"):
        save_params(precious, tiny.params, tiny.config, overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {"out", "home"}


def test_places_that_cannot_be_written_are_named(tiny, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for target in (tmp_path / "file/out", tmp_path / ("n" * 300)):
        with pytest.raises(ExtraError, match="cannot be written"):
            save_params(target, tiny.params, tiny.config)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hf, "write_tensors", full)
    with pytest.raises(ExtraError, match=r"out: cannot be written \(No space left on device\)"):
        save_params(tmp_path / "out", tiny.params, tiny.config)
    assert {path.name for path in tmp_path.iterdir()} == {"file"}


@pytest.mark.parametrize("moment", ["weights", "settings", "publish"])
def test_an_interrupted_export_never_looks_complete(tiny, tmp_path, monkeypatch, moment):
    before = tmp_path / "before"
    save_params(before, tiny.params, tiny.config)
    kept = raw_tensors(before)
    calls, gather = 0, hf._gather

    def interrupt(*_):
        raise KeyboardInterrupt

    def gather_some(*args):
        nonlocal calls
        calls += 1
        return interrupt() if calls == 10 else gather(*args)

    if moment == "weights":
        monkeypatch.setattr(hf, "_gather", gather_some)
    elif moment == "settings":
        monkeypatch.setattr(hf, "_write_settings", interrupt)
    else:
        monkeypatch.setattr(files, "sync", interrupt)
    for target, overwrite in ((tmp_path / "new", False), (before, True)):
        calls = 0
        with pytest.raises(KeyboardInterrupt):
            save_params(target, tiny.params, tiny.config, overwrite=overwrite)
    assert {path.name for path in tmp_path.iterdir()} == {"before"}
    assert raw_tensors(before) == kept


def test_what_a_killed_export_leaves_is_marked_and_cleared(tiny, tmp_path, monkeypatch):
    with monkeypatch.context() as killed:  # nobody tidies up after SIGKILL
        killed.setattr(hf, "_write_settings", lambda *_: 1 / 0)
        killed.setattr(hf.shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(ZeroDivisionError):
            save_params(tmp_path / "out", tiny.params, tiny.config)
    (left,) = tmp_path.iterdir()
    assert left.name == "out.incomplete"
    with pytest.raises(ExtraError, match=r"config\.json"):  # written last
        load_ours(left)
    save_params(tmp_path / "out", tiny.params, tiny.config)
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
