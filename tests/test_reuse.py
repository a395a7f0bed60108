"""Runs that begin completions with those of earlier visits are the runs that decode everything."""

import json
from pathlib import Path

import numpy as np
import pytest
from training_runs import (
    EIGHT_DEVICES,
    Launcher,
    assert_close_metrics,
    checkpoint_steps,
    grpo,
    metric_rows,
    read_checkpoint,
    steps_done,
)

pytest_plugins = ("training_fixtures",)

STEPS = 5
VERIFIED = "rollout.reuse=verified"


@pytest.fixture(scope="module")
def settings(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Problems come back in every other step, and within a step, as dynamic sampling asks again. About half of the
    completions are called correct, so that groups are mixed and their noise stays."""
    path = tmp_path_factory.mktemp("reward") / "even.py"
    path.write_text("def even(prompts, completions, **columns):\n    return [float(len(c) % 2) for c in completions]\n")
    config = grpo(base, Path(), max_steps=STEPS, dump_steps=[], max_num_gen_batches=2)
    return config | {
        "reward": {"functions": [f"{path}:even"], "correct": {"function": f"{path}:even", "threshold": 0.5}},
        "data": config["data"] | {"limit": 12},
        "rollout": config["rollout"] | {"noise": "problem", "noise_epochs": 3},
        "eval": config["eval"] | {"every": 2},
        "checkpoint": {"every": 2},
    }


@pytest.fixture(scope="module")
def verified(launcher: Launcher, settings: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with reuse that was killed after its third step and went on from its checkpoint after the second one."""
    run_dir = tmp_path_factory.mktemp("verified")
    config = settings | {"run": {"dir": str(run_dir)}}
    run = launcher.start("train", config, VERIFIED)
    run.kill_when(lambda: steps_done(run_dir) >= 3 and checkpoint_steps(run_dir) == [2])
    launcher.run("train", config, VERIFIED)
    return run_dir


def tokens(run_dir: Path) -> list[list]:
    rows = [json.loads(line) for file in sorted(run_dir.glob("rollouts/*")) for line in file.read_text().splitlines()]
    return [[row["uid"], row["completion"], row["reward"]] for row in rows]


def test_a_killed_run_with_reuse_ends_with_the_tokens_and_parameters_of_one_without(
    launcher: Launcher, settings: dict, verified: Path, tmp_path: Path
) -> None:
    launcher.run("train", settings | {"run": {"dir": str(tmp_path)}})
    assert tokens(verified) == tokens(tmp_path)
    (_, arrays, host), (_, expected, expected_host) = read_checkpoint(verified), read_checkpoint(tmp_path)
    assert host == expected_host
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array, err_msg=name, strict=True)
    kept = [row["reuse/kept_tokens"] for row in metric_rows(verified) if "reuse/kept_tokens" in row]
    assert kept[0] == 0
    assert 0.2 < max(kept) < 1
    assert [row["step"] for row in metric_rows(verified) if "noise/bias" in row] == [2, 4, 5], "at every evaluation"


def test_two_processes_keep_what_one_keeps(launcher: Launcher, settings: dict, verified: Path, tmp_path: Path) -> None:
    """Also what the one kept after it was killed: ``reuse/*`` are the same numbers."""
    config = settings | {"run": {"dir": str(tmp_path)}}
    for running in launcher.start_processes("train", config, VERIFIED, *EIGHT_DEVICES, count=2, devices=4):
        running.finish()
    assert_close_metrics(tmp_path, verified, 1e-4)
