"""One training of an experiment in a process of its own: runs it, continues it, or leaves it alone."""

import fcntl
import subprocess
import sys
import time
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

from extra_jax.telemetry.metrics import read_metrics


def train(config: Path, run_dir: Path, overrides: list[str], verb: str = "train") -> None:
    """Runs or continues one training, unless it is finished or another process has it."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{run_dir}: another process works on it", flush=True)
            return
        if (run_dir / "report.html").exists():
            print(f"{run_dir}: finished before", flush=True)
            return
        began = time.time()
        with (run_dir / "train.log").open("a") as log:
            command = [sys.executable, "-m", "extra_jax.cli", verb, str(config), *overrides]
            status = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
        ended = "finished" if status == 0 else f"ended with status {status}, see {run_dir}/train.log"
        print(f"{run_dir}: {ended} after {(time.time() - began) / 60:.1f} min", flush=True)


def finished_runs(folder: Path, arms: Container[str]) -> Iterator[tuple[str, str, Path]]:
    """``(arm, seed, run)`` of each finished ``ARM_seedS``; unfinished ones are named and left out."""
    for run in sorted(folder.glob("*_seed*")):
        arm, _, seed = run.name.partition("_seed")
        if arm.partition("+")[0] in arms and (run / "report.html").exists():
            yield arm, seed, run
        else:
            print(f"{run}: not finished, left out")


def step_rows(run: Path, metrics: Sequence[str]) -> Iterator[list[str | int]]:
    """The step and ``metrics`` of each training step, as cells of a table; empty where a step has no such number."""
    for row in read_metrics(run):
        if "pass_rate" in row:
            yield [row["step"], *("" if row.get(name) is None else f"{row[name]:.5g}" for name in metrics)]


def steps_done(run_dir: Path) -> int:
    if not (run_dir / "metrics.jsonl").exists():
        return 0
    return max((row["step"] for row in read_metrics(run_dir)), default=0)
