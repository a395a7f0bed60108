"""Whole runs that explore: nothing changes while it is switched off, a killed run continues identically, and
several processes are one."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from training_runs import (
    Launcher,
    assert_close_metrics,
    assert_same_run,
    checkpoint_steps,
    metric_rows,
    read_checkpoint,
    steps_done,
)

from extra_jax.checkpoint import Checkpointer
from extra_jax.config import config_from_dict
from extra_jax.errors import ExtraError
from extra_jax.run_dir import open_run

STEPS, EVERY = 5, 2
COMPLETION = 24
EXPLORE = {
    "preset": "corrected",  # a bonus and guided prompts, with random numbers in the draw of the latter
    "encoder": {"name": "hashed_ngram", "size": 64},
    "prompts": {"prefixes": {"min_tokens": 2, "min_gap": 2, "every": 4, "warmup_steps": 0, "guided_fraction": 0.25}},
}
SILENT = {"encoder": EXPLORE["encoder"], "bonus": {"novelty": {"alpha": 0.0}}}  # computes every signal, uses none


def exploring(run_dir: Path, explore: dict = EXPLORE, **train: Any) -> dict:
    """A few steps of the small model of the package on a task that it sometimes solves."""
    return {
        "run": {"dir": str(run_dir)},
        "model": {"path": "tiny-base", "dtype": "float32", "remat": "none"},
        "data": {"source": "countdown", "task": {"numbers": [3, 3]}, "limit": 40},
        "rollout": {"dtype": "float32", "max_prompt_length": 40, "max_completion_length": COMPLETION},
        "optim": {"learning_rate": 1e-4, "adam_epsilon": 1e-5},
        "train": {
            "max_steps": STEPS, "prompts_per_step": 8, "num_generations": 8, "row_length": 64, "micro_batch_rows": 8,
        } | train,
        "checkpoint": {"every": EVERY},
        "explore": explore,
    }  # fmt: skip


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Launcher:
    return Launcher(tmp_path_factory.mktemp("launcher"))


def explore_state(run_dir: Path) -> list[np.ndarray]:
    """The leaves of the state of exploration in the last checkpoint."""
    with Checkpointer(run_dir / "checkpoints", read_only=True) as reader:
        return [np.asarray(leaf) for leaf in jax.tree.leaves(reader.restore_explore())]


@pytest.fixture(scope="module")
def explored(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exploring run that nothing disturbed."""
    run_dir = tmp_path_factory.mktemp("explored")
    launcher.run("train", exploring(run_dir))
    return run_dir


def records(run_dir: Path, step: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "rollouts" / f"step_{step:06d}.jsonl").read_text().splitlines()]


def test_switched_off_tokens_advantages_and_parameters_are_those_of_grpo(launcher: Launcher, tmp_path: Path) -> None:
    """Three steps; a bonus of size 0 computes every signal and uses none."""
    plain, off = tmp_path / "plain", tmp_path / "off"
    launcher.run("train", exploring(plain, {"preset": "grpo"}, max_steps=3))
    launcher.run("train", exploring(off, SILENT, max_steps=3))
    arrays, expected = read_checkpoint(off)[1], read_checkpoint(plain)[1]
    assert arrays.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array, err_msg=name, strict=True)
    for row, wanted in zip(metric_rows(off), metric_rows(plain), strict=True):
        assert wanted.items() <= row.items()
    assert any(row.get("exploration/novelty_mean", 0) > 0 for row in metric_rows(off)), "there was something to pay"
    for step in (1, 2, 3):
        for row, wanted in zip(records(off, step), records(plain, step), strict=True):
            assert wanted.items() <= row.items()


def test_hidden_states_of_the_scoring_pass_change_nothing_and_do_not_depend_on_processes(
    launcher: Launcher, tmp_path: Path
) -> None:
    """Two updates a step, so there is a scoring pass; a bonus of size 0 reads its states and pays nothing."""
    plain, off, two = tmp_path / "plain", tmp_path / "off", tmp_path / "two"
    hidden = SILENT | {"encoder": {"name": "policy_hidden"}}
    launcher.run("train", exploring(plain, {"preset": "grpo"}, max_steps=2, num_minibatches=2))
    launcher.run("train", exploring(off, hidden, max_steps=2, num_minibatches=2))
    arrays, expected = read_checkpoint(off)[1], read_checkpoint(plain)[1]
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array, err_msg=name, strict=True)
    for row, wanted in zip(metric_rows(off), metric_rows(plain), strict=True):
        assert wanted.items() <= row.items()
    assert any(row.get("exploration/novelty_mean", 0) > 0 for row in metric_rows(off))
    settings = exploring(two, hidden, max_steps=2, num_minibatches=2)
    for run in launcher.start_processes("train", settings, count=2, devices=1):
        run.finish()
    assert_close_metrics(two, off, 1e-4)


def test_the_run_explores(explored: Path) -> None:
    """What the other tests here compare is worth comparing."""
    rows = metric_rows(explored)
    assert sum(row["exploration/guided_injected"] for row in rows) >= 4
    assert any(row.get("exploration/bonus_abs_mean", 0) > 0 for row in rows)
    guided, named = 0, {}
    for step in range(1, STEPS + 1):
        written = records(explored, step)
        named |= {f"{step}:{row['rollout_id']}": row for row in written}
        for row in written:
            prefix = row["prefix_ids"] or []
            assert len(prefix) + len(row["completion_ids"]) <= COMPLETION
            if prefix:
                parent = named[row["parent"]]
                assert (parent["uid"], parent["completion_ids"][: len(prefix)]) == (row["uid"], prefix)
                guided += 1
            assert row["nearest"] is None or named[row["nearest"]]["uid"] == row["uid"]
    assert guided >= 32


def test_a_run_killed_while_exploring_ends_bit_identically(launcher: Launcher, explored: Path, tmp_path: Path) -> None:
    config = exploring(tmp_path)
    run = launcher.start("train", config)
    run.kill_when(lambda: steps_done(tmp_path) > EVERY and checkpoint_steps(tmp_path) == [EVERY])
    launcher.run("train", config)
    assert_same_run(tmp_path, explored)
    state, expected = explore_state(tmp_path), explore_state(explored)
    assert len(state) > 10
    for leaf, wanted in zip(state, expected, strict=True):
        np.testing.assert_array_equal(leaf, wanted, strict=True)


def test_two_processes_explore_like_one(launcher: Launcher, explored: Path, tmp_path: Path) -> None:
    for run in launcher.start_processes("train", exploring(tmp_path), count=2, devices=1):
        run.finish()
    assert_close_metrics(tmp_path, explored, 1e-4)
    for row, wanted in zip(records(tmp_path, STEPS), records(explored, STEPS), strict=False):
        for name in ("uid", "parent", "prefix_ids", "nearest", "completion_ids"):
            assert row[name] == wanted[name]


def test_a_run_may_not_change_how_it_explores(explored: Path) -> None:
    changed = exploring(explored, EXPLORE | {"bonus": {"novelty": {"alpha": 0.3}}})
    with pytest.raises(ExtraError, match=r"explore.bonus.novelty.*0.3"):
        open_run(config_from_dict(changed))
