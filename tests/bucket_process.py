"""Runs in a bucket of an emulator, in a process of its own: TensorStore reads where the bucket is when it is loaded.

    python bucket_process.py FOLDER [train]

With `train` a whole run, too, which takes half a minute.
"""

import logging
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from gcp_storage_emulator.handlers import objects
from gcp_storage_emulator.server import create_server


def downloaded(request: Any, response: Any, storage: Any, *arguments: Any, **settings: Any) -> None:
    """With the generation, as the bucket does and the emulator does not: TensorStore conditions its writes on it."""
    download(request, response, storage, *arguments, **settings)
    if response.status in (200, 206):
        there = storage.get_file_obj(request.params["bucket_name"], request.params["object_id"])
        response["x-goog-generation"] = there["generation"]


download, objects.download = objects.download, downloaded


def main(folder: Path) -> None:
    server = create_server("localhost", 0, in_memory=True, default_bucket="ours")
    server.start()
    url = f"http://localhost:{server._api._httpd.socket.getsockname()[1]}"
    os.environ |= {
        "TENSORSTORE_GCS_HTTP_URL": url,
        "STORAGE_EMULATOR_HOST": url,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
        "GOOGLE_CLOUD_PROJECT": "ours",
    }
    logging.disable(logging.WARNING)  # gcsfs finds no credentials
    import jax.numpy as jnp

    from extra_jax.checkpoint import Checkpointer
    from extra_jax.errors import ExtraError

    def state(value: float) -> dict:
        return {"w": jnp.full((8, 64), value), "b": jnp.full(3, value)}

    where = "gs://ours/runs/first/checkpoints"
    with Checkpointer(where, keep=2) as checkpoints:
        assert checkpoints.latest_step() is None
        for step in (1, 2, 3):
            checkpoints.save(step, state(step), {"loader": {"at": step}}, {"seen": [step]})
        checkpoints.wait()
        assert checkpoints.steps() == [2, 3]
    assert not Path("gs:").exists(), "no folder of this name"
    with Checkpointer(where, read_only=True) as checkpoints:
        step, read = checkpoints.restore(state(0), step=2)
        assert (step, float(read["w"][7, 63])) == (2, 2.0)
    with Checkpointer(where) as checkpoints:  # the numbers of step 3 were not written down
        saved = checkpoints.resume(state(0), recorded=2)
        assert (saved.step, saved.cursors, saved.explore) == (2, {"loader": {"at": 2}}, {"seen": [2]})
        assert checkpoints.steps() == [2]
        checkpoints.save(3, state(30), {"loader": {"at": 30}})
    with Checkpointer(where) as checkpoints:
        assert float(checkpoints.resume(state(0), recorded=3).state["b"][0]) == 30
    with pytest.raises(ExtraError, match=r"gs://theirs/checkpoints: cannot be written to .* storage\.objectUser"):
        Checkpointer("gs://theirs/checkpoints")
    if sys.argv[2:]:
        train(folder, where.replace("first", "second"))
    server.stop()
    print("all checked", flush=True)


def train(folder: Path, where: str) -> None:
    """The same command twice: the second goes on where the first was, from the bucket alone."""
    from extra_jax.config import config_from_dict
    from extra_jax.errors import ExtraError
    from extra_jax.sft import sft

    tree = {
        "run": {"dir": str(folder / "run")},
        "model": {"preset": "tiny", "dtype": "float32", "remat": "none"},
        "tokenizer": {"path": "tiny"},
        "data": {"source": "chain", "task": {"steps": [1, 1]}, "limit": 16},
        "sft": {"max_steps": 2, "batch_size": 4, "row_length": 64, "micro_batch_rows": 4},
        "checkpoint": {"dir": where, "every": 1},
    }
    assert sft(config_from_dict(tree)).step == 2
    assert not (folder / "run/checkpoints").exists()
    tree["sft"]["max_steps"] = 3
    assert sft(config_from_dict(tree)).step == 3
    tree["checkpoint"]["dir"] = None
    with pytest.raises(ExtraError, match=r"checkpoint\.dir"):
        sft(config_from_dict(tree))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
