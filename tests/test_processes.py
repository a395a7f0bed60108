"""Several processes train like one (docs/design.md, decision 12): two with four devices each against one with eight."""

import json
import signal
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

STEPS = 4


@pytest.fixture(scope="module")
def one_process(launcher: Launcher, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process with eight devices."""
    run_dir = tmp_path_factory.mktemp("one_process")
    launcher.run("train", grpo(base, run_dir, max_steps=STEPS), *EIGHT_DEVICES, devices=8)
    return run_dir


@pytest.fixture(scope="module")
def two_processes(launcher: Launcher, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run by two processes: one gets SIGTERM, both are started again and killed; one process does the rest.

    ``stopped_I.log`` and ``killed_I.log`` are what process ``I`` printed; ``stopped_at`` holds the steps that were done
    and the newest checkpoint after the SIGTERM.
    """
    run_dir = tmp_path_factory.mktemp("two_processes")
    config = grpo(base, run_dir, max_steps=STEPS)

    stopped = launcher.start_processes("train", config, *EIGHT_DEVICES, count=2, devices=4)
    stopped[0].until(lambda: steps_done(run_dir) >= 1)
    stopped[1].process.send_signal(signal.SIGTERM)
    for index, running in enumerate(stopped):
        (run_dir / f"stopped_{index}.log").write_text(running.finish())
    (run_dir / "stopped_at").write_text(f"{steps_done(run_dir)} {checkpoint_steps(run_dir)[-1]}")

    killed = launcher.start_processes("train", config, *EIGHT_DEVICES, count=2, devices=4)
    killed[0].until(lambda: steps_done(run_dir, since=killed[0].started) == STEPS)
    for running in killed:
        running.process.kill()
    for index, running in enumerate(killed):
        (run_dir / f"killed_{index}.log").write_text(running.finish(-signal.SIGKILL))

    launcher.run("train", config, *EIGHT_DEVICES, devices=8)
    return run_dir


def test_two_processes_give_the_losses_of_one_even_if_stopped_and_killed(
    one_process: Path, two_processes: Path
) -> None:
    assert_close_metrics(two_processes, one_process, 1e-5)
    (_, arrays, host), (_, expected, expected_host) = map(read_checkpoint, (two_processes, one_process))
    assert host == expected_host
    for name, array in expected.items():
        np.testing.assert_allclose(arrays[name], array, atol=1e-4, err_msg=name)


def test_numbers_of_the_host_are_gathered_without_rounding(one_process: Path, two_processes: Path) -> None:
    for ours, theirs in zip(metric_rows(two_processes), metric_rows(one_process), strict=True):
        for name in ("reward", "reward_std", "advantages/abs_mean", "num_tokens"):
            assert ours.get(name) == theirs.get(name), f"step {ours['step']}: {name}"


def test_sigterm_to_one_process_stops_both_at_the_same_step(two_processes: Path) -> None:
    done, saved = map(int, (two_processes / "stopped_at").read_text().split())
    assert done == saved < STEPS
    assert f"asked to stop: saved step {done}" in (two_processes / "stopped_0.log").read_text()


def test_process_0_records_its_half_of_the_same_tokens(one_process: Path, two_processes: Path) -> None:
    for step in range(1, STEPS):
        name = f"rollouts/step_{step:06d}.jsonl"
        whole, half = read(one_process / name), read(two_processes / name)
        assert 0 < len(half) < len(whole)
        by_id = {row["rollout_id"]: row for row in whole}
        assert len(by_id) == len(whole)
        for ours in half:
            same = ("rollout_id", "uid", "prompt_ids", "completion_ids", "verdict", "reward", "advantage")
            assert {key: ours[key] for key in same} == {key: by_id[ours["rollout_id"]][key] for key in same}


def test_evaluation_by_two_processes_covers_every_problem(one_process: Path, two_processes: Path) -> None:
    for step in (0, 3):
        name = f"evals/chain/step_{step:06d}.json"
        ours, theirs = read(two_processes / name), read(one_process / name)
        weights = [numbers[0].pop("weights") for numbers in (ours, theirs)]
        assert ours == theirs
        assert (weights[0] == weights[1]) == (step == 0), "training rounds differently, but measures the same"
        rows, whole = (read((run / name).with_suffix(".jsonl")) for run in (two_processes, one_process))
        assert rows == whole, "completions of all processes are recorded"
        assert len(ours[0]["uids"]) == 5, "a number that two processes cannot share evenly"


def test_only_process_0_writes_logs(two_processes: Path) -> None:
    for kind in ("stopped", "killed"):
        ours, others = ((two_processes / f"{kind}_{index}.log").read_text() for index in (0, 1))
        assert "step" in ours
        assert "step" not in others
    rows = read(two_processes / "metrics.jsonl")
    assert [row["step"] for row in rows if "step_time" in row] == list(range(1, STEPS + 1))


def read(path: Path) -> list[dict]:
    """The JSON lines of a file."""
    return [json.loads(line) for line in path.read_text().splitlines()]
