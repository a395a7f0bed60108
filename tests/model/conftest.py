"""Models on disk for the tests of Hugging Face folders."""

import shutil
from pathlib import Path

import pytest
import torch

from model.torch_qwen3 import SHARD, load_ours, save_torch, torch_model


@pytest.fixture(scope="session")
def sources(tmp_path_factory):
    """The same model as ``transformers`` writes it, by (tied, dtype, sharded)."""
    folders = {}
    for tied in (True, False):
        for dtype in ("float32", "bfloat16"):
            model = torch_model(tie_word_embeddings=tied, attention_bias=not tied).to(getattr(torch, dtype))
            for sharded in (True, False):
                folder = tmp_path_factory.mktemp(f"{'tied' if tied else 'untied'}-{dtype}-{sharded}")
                folders[tied, dtype, sharded] = save_torch(model, folder, SHARD if sharded else "5GB")
    return folders


@pytest.fixture
def folder(sources, tmp_path):
    """A tied single-file f32 model to damage."""
    return Path(shutil.copytree(sources[True, "float32", False], tmp_path / "model"))


@pytest.fixture
def sharded_folder(sources, tmp_path):
    return Path(shutil.copytree(sources[True, "float32", True], tmp_path / "model"))


@pytest.fixture(scope="session")
def tiny(sources):
    return load_ours(sources[True, "float32", False])
