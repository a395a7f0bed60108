"""Seconds and CPU-seconds of a training step, of two trees in turns: an old commit and this one.

    git worktree add --detach /tmp/before COMMIT
    python benchmarks/quickstart/step_time.py /tmp/before . --steps 12 --warm-up 8

Each tree trains the configuration in a process of its own, and only one of them has its turn, for one step. What else
the machine does falls on both. Medians and maxima are of the steps after the warm-up, in which programs are compiled.
CPU-seconds are of the process with all of its threads, without the graders.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
PHASES = ("generate", "update", "step")


def serve(config_path: str, overrides: list[str]) -> None:
    """Trains; every step waits for a line and answers with one, ``phase -> [seconds, CPU-seconds]``."""
    from extra_jax.assemble import train
    from extra_jax.config import load_config
    from extra_jax.run import Run
    from extra_jax.telemetry.timing import PhaseTimer

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the run prints is no answer
    row: dict[str, list[float]] = {}

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        row[name] = [time.perf_counter() - wall, time.process_time() - cpu]

    plain_phase, plain_steps = PhaseTimer.phase, Run.steps

    @contextmanager
    def phase(self: PhaseTimer, name: str) -> Iterator[None]:
        with timed(name), plain_phase(self, name):
            yield

    def steps(self: Run) -> Iterator[int]:
        for step in plain_steps(self):
            if not sys.stdin.readline():
                return
            with timed("step"):
                yield step
            print(json.dumps(row), file=answers, flush=True)

    PhaseTimer.phase, Run.steps = phase, steps  # type: ignore[method-assign]
    train(load_config(config_path, overrides))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trees", nargs="*", default=["."], help="folders with a checkout")
    parser.add_argument("--config", default=str(ROOT / "configs" / "quickstart.yaml"))
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--warm-up", type=int, default=8)
    parser.add_argument("--set", action="append", default=[], metavar="key.sub=value", help="replaces a setting")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(args.config, args.set)
    total = args.steps + args.warm_up
    with tempfile.TemporaryDirectory() as folder:
        processes = []
        for number, tree in enumerate(args.trees):
            settings = [f"run.dir={folder}/{number}", f"train.max_steps={total}", "eval.data=null", *args.set]
            command = [sys.executable, __file__, "--serve", "--config", args.config]
            process = subprocess.Popen(
                [*command, *(f"--set={setting}" for setting in settings)],
                env=os.environ | {"PYTHONPATH": str(Path(tree).resolve()), "JAX_PLATFORMS": "cpu"},
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            )  # fmt: skip
            processes.append(process)
        rows: list[list[dict]] = [[] for _ in processes]
        for _ in range(total):
            for process, seen in zip(processes, rows, strict=True):
                print(file=process.stdin, flush=True)
                seen.append(json.loads(process.stdout.readline()))
        for process in processes:
            process.stdin.close()
            process.wait()
    print("tree | phase | s median | s max | CPU-s median | CPU-s max | s of the first step")
    for tree, seen in zip(args.trees, rows, strict=True):
        for phase in PHASES:
            wall, cpu = np.array([row[phase] for row in seen[args.warm_up :]]).T
            numbers = np.median(wall), wall.max(), np.median(cpu), cpu.max(), seen[0][phase][0]
            print(tree, phase, *(f"{number:.2f}" for number in numbers), sep=" | ")


if __name__ == "__main__":
    main()
