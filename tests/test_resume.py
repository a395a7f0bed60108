"""Kill it anywhere, run the same command again: it continues bit-identically (docs/design.md, decision 8)."""

import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from training_runs import (
    CHECKPOINT_EVERY,
    EIGHT_DEVICES,
    MAX_STEPS,
    SFT,
    Launcher,
    assert_close_metrics,
    assert_same_run,
    checkpoint_steps,
    grpo,
    saving,
    steps_done,
)

pytest_plugins = ("training_fixtures",)


@pytest.fixture(scope="module")
def stopped(launcher: Launcher, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that got SIGTERM after its first step, and what it printed in ``printed.log``."""
    run_dir = tmp_path_factory.mktemp("stopped")
    run = launcher.start("train", grpo(base, run_dir))
    run.until(lambda: steps_done(run_dir) >= 1)
    run.process.send_signal(signal.SIGTERM)
    (run_dir / "printed.log").write_text(run.finish())
    return run_dir


def test_a_run_killed_at_every_kind_of_moment_ends_bit_identically(
    launcher: Launcher, base: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    config = grpo(base, tmp_path)

    run = launcher.start("train", config)
    run.kill_when(lambda: steps_done(tmp_path) >= 1)
    assert checkpoint_steps(tmp_path) == [], "the first kill comes before the first checkpoint"

    run = launcher.start("train", config)
    run.kill_when(lambda: saving(tmp_path))

    run = launcher.start("train", config)
    between = [CHECKPOINT_EVERY]
    run.kill_when(lambda: steps_done(tmp_path, run.started) > between[0] and checkpoint_steps(tmp_path) == between)

    run = launcher.start("train", config)
    run.kill_when(lambda: checkpoint_steps(tmp_path)[-1:] == [MAX_STEPS])
    assert not (tmp_path / "report.html").exists(), "the fourth kill comes after the last checkpoint, before the end"

    launcher.run("train", config)
    assert not saving(tmp_path), "what the second kill left behind is cleaned up"
    assert_same_run(tmp_path, uninterrupted)


def test_a_run_killed_at_a_random_moment_ends_bit_identically(
    launcher: Launcher, base: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    """One of hundreds: ``benchmarks/chaos/kill.py``."""
    rng = random.Random(16)
    step, delay = rng.randint(1, MAX_STEPS - 1), rng.uniform(0, 0.3)
    run = launcher.start("train", grpo(base, tmp_path))
    run.until(lambda: steps_done(tmp_path) >= step)
    time.sleep(delay)
    run.process.kill()
    assert run.process.wait() == -signal.SIGKILL
    launcher.run("train", grpo(base, tmp_path))
    assert_same_run(tmp_path, uninterrupted)


def test_a_killed_sft_run_ends_bit_identically(launcher: Launcher, sft_run: Path, tmp_path: Path) -> None:
    config = SFT | {"run": {"dir": str(tmp_path)}}
    run = launcher.start("sft", config)
    run.kill_when(lambda: saving(tmp_path))
    launcher.run("sft", config)
    assert_same_run(tmp_path, sft_run)


def test_sigterm_finishes_the_step_saves_and_exits_0(stopped: Path) -> None:
    done = steps_done(stopped)
    assert 1 <= done < MAX_STEPS, "stopped before the end"
    assert checkpoint_steps(stopped)[-1] == done, "the last finished step is saved"
    assert f"asked to stop: saved step {done}; the same command continues" in (stopped / "printed.log").read_text()
    assert not (stopped / "export").exists()


def test_the_same_command_after_sigterm_ends_bit_identically(
    launcher: Launcher, base: Path, stopped: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    launcher.run("train", grpo(base, tmp_path))
    assert_same_run(tmp_path, uninterrupted)


def test_a_run_continues_on_another_mesh_with_other_micro_batches(
    launcher: Launcher, base: Path, stopped: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    launcher.run("train", grpo(base, tmp_path), *EIGHT_DEVICES, "logging.rollouts_every=2", devices=8)
    assert_close_metrics(tmp_path, uninterrupted, 1e-4)
