"""``model.path=ORG/NAME`` is downloaded; without a network the error says what to do."""

import huggingface_hub
import pytest

from extra_jax.config import config_from_dict
from extra_jax.data.load import model_tokenizer
from extra_jax.errors import ExtraError
from extra_jax.model.config import TINY_BASE, is_hub_name, model_folder


@pytest.fixture
def hub(monkeypatch):
    """A hub with one model; what is asked for is noted."""
    asked = []

    def snapshot_download(name, *, allow_patterns):
        asked.append((name, tuple(allow_patterns)))
        if name != "Qwen/Qwen3-0.6B":
            raise ConnectionError("no route to the hub\nsecond line")
        return str(model_folder(TINY_BASE))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


def test_a_name_of_the_hub_is_downloaded_with_its_tokenizer(hub, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert model_folder("Qwen/Qwen3-0.6B") == model_folder(TINY_BASE)
    assert hub[0][0] == "Qwen/Qwen3-0.6B"
    assert not any("bin" in pattern or "py" in pattern for pattern in hub[0][1]), "no pickles, no code"
    tokenizer = model_tokenizer(config_from_dict({"model": {"path": "Qwen/Qwen3-0.6B"}}))
    assert tokenizer.encode_prompt("countdown 24: 3 5 8\n")


def test_without_a_network_the_error_says_what_to_do(hub, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ExtraError, match=r"model.path=Qwen/Qwen9: .*ConnectionError: no route to the hub\). Check"):
        model_folder("Qwen/Qwen9")


def test_a_folder_of_that_name_is_used_and_other_paths_are_no_names(hub, monkeypatch, tmp_path):
    (tmp_path / "Qwen" / "Qwen3-0.6B").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert model_folder("Qwen/Qwen3-0.6B").is_dir()
    assert not hub
    assert not any(map(is_hub_name, ("tiny-base", "/a/b", "./a", "~/a", "a/b/c", "../a", "gs://a/b")))
