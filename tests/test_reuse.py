"""Runs that begin completions with those of earlier visits are the runs that decode everything (docs/reuse.md)."""

import json
from pathlib import Path

import numpy as np
import pytest
from training_runs import (
    EIGHT_DEVICES,
    Launcher,
    assert_close_metrics,
    assert_same_run,
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
    run_dir = tmp_path_factory.mktemp("verified")
    launcher.run("train", settings | {"run": {"dir": str(run_dir)}}, VERIFIED)
    return run_dir


def tokens(run_dir: Path) -> list[list]:
    rows = [json.loads(line) for file in sorted(run_dir.glob("rollouts/*")) for line in file.read_text().splitlines()]
    return [[row["uid"], row["completion"], row["reward"]] for row in rows]


def test_the_same_tokens_and_parameters_are_decoded_or_verified(
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
    assert sum("noise/bias" in row for row in metric_rows(verified)) == 2, "after the first step with an evaluation"


def test_a_killed_run_goes_on_with_what_it_had_kept(
    launcher: Launcher, settings: dict, verified: Path, tmp_path: Path
) -> None:
    config = settings | {"run": {"dir": str(tmp_path)}}
    run = launcher.start("train", config, VERIFIED)
    run.kill_when(lambda: steps_done(tmp_path) >= 3 and checkpoint_steps(tmp_path) == [2])
    launcher.run("train", config, VERIFIED)
    assert_same_run(tmp_path, verified)


def test_two_processes_keep_what_one_keeps(launcher: Launcher, settings: dict, verified: Path, tmp_path: Path) -> None:
    config = settings | {"run": {"dir": str(tmp_path)}}
    for running in launcher.start_processes("train", config, VERIFIED, *EIGHT_DEVICES, count=2, devices=4):
        running.finish()
    assert_close_metrics(tmp_path, verified, 1e-4)
