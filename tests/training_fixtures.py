"""A pytest plugin: the tests of the training loop share one base model, one finished run, one compilation cache."""

from pathlib import Path

import pytest
from training_runs import SFT, Launcher, grpo


@pytest.fixture(scope="session")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Launcher:
    return Launcher(tmp_path_factory.mktemp("launcher"))


@pytest.fixture(scope="session")
def sft_run(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the ``sft`` verb."""
    run_dir = tmp_path_factory.mktemp("sft")
    launcher.run("sft", SFT | {"run": {"dir": str(run_dir)}})
    return run_dir


@pytest.fixture(scope="session")
def base(sft_run: Path) -> Path:
    """A model that answers well-formed now and then."""
    return sft_run / "export"


@pytest.fixture(scope="session")
def uninterrupted(launcher: Launcher, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GRPO run on one device that nothing disturbed."""
    run_dir = tmp_path_factory.mktemp("uninterrupted")
    launcher.run("train", grpo(base, run_dir))
    return run_dir
