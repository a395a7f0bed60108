"""Checkpoints in a bucket, by an emulator of Cloud Storage on this machine: Orbax and TensorStore speak to it as to the
real one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("gcsfs", reason="not installed: pip install 'extra-jax[test]'")
pytest.importorskip("gcp_storage_emulator", reason="not installed: pip install 'extra-jax[test]'")


def test_a_run_with_its_checkpoints_in_a_bucket_is_continued_from_there(tmp_path: Path) -> None:
    environment = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, Path(__file__).with_name("bucket_process.py"), tmp_path]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "all checked"
