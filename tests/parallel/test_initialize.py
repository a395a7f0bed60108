"""Joining processes: a failure says what to set, because a recipe for a pod is first tried on one machine."""

import subprocess
import sys
from pathlib import Path

import jax
import pytest

from extra_jax.config import DistributedConfig, MeshConfig
from extra_jax.errors import ExtraError
from extra_jax.parallel.processes import initialize

ROOT = Path(__file__).parents[2]


def test_the_pod_recipe_on_one_machine_says_what_to_set_and_shows_no_traceback() -> None:
    recipe = str(ROOT / "configs/qwen3_1_7b_grpo.yaml")
    overrides = ["model.path=null", "model.preset=tiny", "tokenizer.path=tiny"]
    done = subprocess.run(
        [sys.executable, "-m", "extra_jax.cli", "train", recipe, *overrides],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "distributed.enabled=false" in done.stderr
    assert "coordinator_address should be defined" in done.stderr, "the cause is named too"


@pytest.mark.parametrize("cause", [ValueError("no cluster"), RuntimeError("called too late"), OSError("port in use")])
def test_any_failure_to_join_is_explained(monkeypatch: pytest.MonkeyPatch, cause: Exception) -> None:
    def fail(*_: object, **__: object) -> None:
        raise cause

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    with pytest.raises(ExtraError, match=str(cause)) as raised:
        initialize(DistributedConfig(enabled=True), MeshConfig())
    assert raised.value.__cause__ is cause


def test_auto_runs_alone_where_no_cluster_is_and_hides_no_other_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """The words are those of jax, which the test above gets from jax itself."""
    failure: Exception = ValueError("coordinator_address should be defined.")

    def fail(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    initialize(DistributedConfig(enabled="auto"), MeshConfig())
    with pytest.raises(ExtraError, match="coordinator_address should be defined"):
        initialize(DistributedConfig(enabled=True), MeshConfig())
    failure = RuntimeError("barrier timed out")
    with pytest.raises(ExtraError, match=r"distributed.enabled=auto, but .* barrier timed out"):
        initialize(DistributedConfig(enabled="auto"), MeshConfig())
