"""Real runs for the tests of the training loop: configurations, processes, signals, and what a run left behind."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import yaml

from extra_jax.telemetry.files import METRICS_FILE, parse_row
from extra_jax.telemetry.metrics import read_metrics
from tests.compiler import QUICK

MAX_STEPS = 6
CHECKPOINT_EVERY = 3
EIGHT_DEVICES = ("mesh.fsdp=4", "mesh.tensor=2", "train.micro_batch_rows=2")
_TIMEOUT = 300.0  # of anything a test waits for; a loaded machine compiles slowly

_TASK = {"source": "chain", "task": {"steps": [1, 1]}}
_CHAIN = {
    "model": {"preset": "tiny", "dtype": "float32", "remat": "none"},
    "tokenizer": {"path": "tiny"},
    "data": {**_TASK, "limit": 64},
    "rollout": {"dtype": "float32", "max_prompt_length": 12, "max_completion_length": 12},
}
# Twenty steps: the model begins to write well-formed lines, so that its groups are mixed.
SFT = {
    **_CHAIN,
    "optim": {"learning_rate": 3e-3, "warmup_steps": 10},
    "sft": {"max_steps": 20, "batch_size": 32, "row_length": 64, "micro_batch_rows": 8},
    "checkpoint": {"every": 8},
}
# Everything that has state: a reference model, several updates a step, warm-up, evaluations.
GRPO = {
    **_CHAIN,
    # A well-formed line is worth something: learnable within a few steps. 0.3 is no float32.
    "reward": {
        "functions": [
            {"function": "auto", "args": {"values": {"wrong": 0.3}}},
            {"function": "overlong", "args": {"cache": 2}},
        ]
    },
    # With the usual epsilon, rounding decides the direction of the smallest gradients and grows from step to step.
    "optim": {"learning_rate": 5e-4, "warmup_steps": 4, "adam_epsilon": 1e-5},
    "train": {
        "max_steps": MAX_STEPS,
        "prompts_per_step": 8,
        "num_generations": 4,
        "num_minibatches": 2,
        "num_iterations": 2,
        "max_num_gen_batches": 3,
        "dump_steps": [1, 2, CHECKPOINT_EVERY + 1],
        "beta": 0.01,
        "row_length": 48,
        "micro_batch_rows": 8,
    },
    "eval": {"data": {**_TASK, "split": "test", "limit": 5}, "every": 3, "num_generations": 2},
    "checkpoint": {"every": CHECKPOINT_EVERY},
}


class Running:
    """A verb of the command line in a process of its own; what it prints goes to a file."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path):
        self.log, self.started = log, time.time()
        with log.open("w") as output:
            self.process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)

    def finish(self, status: int = 0) -> str:
        """Waits for the end with exit status ``status``; returns what was printed."""
        found = self.process.wait(_TIMEOUT)
        assert found == status, f"exit status {found}, expected {status}:\n{self.printed()}"
        return self.printed()

    def until(self, happened: Callable[[], bool]) -> None:
        """Waits for a condition; the process must not end before."""
        while not happened():
            assert self.process.poll() is None, f"ended before the moment that the test waits for:\n{self.printed()}"
            assert time.time() < self.started + _TIMEOUT, f"waited too long:\n{self.printed()}"
            time.sleep(0.002)

    def kill_when(self, happened: Callable[[], bool]) -> None:
        """``kill -9`` while the condition holds: the process is stopped first, so that it cannot move on meanwhile."""
        while True:
            self.until(happened)
            self.process.send_signal(signal.SIGSTOP)
            _, status = os.waitpid(self.process.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status), f"ended before the moment that the test waits for:\n{self.printed()}"
            if happened():
                self.process.kill()
                assert self.process.wait(_TIMEOUT) == -signal.SIGKILL
                return
            self.process.send_signal(signal.SIGCONT)

    def printed(self) -> str:
        return self.log.read_text()


class Launcher:
    """Starts verbs of the command line with emulated devices; programs are compiled once for all of them."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._logs = 0

    def start(self, verb: str, config: dict, *overrides: str, devices: int = 1) -> Running:
        """``python -m extra_jax.cli VERB CONFIG OVERRIDES``, any warning an error."""
        self._logs += 1
        path = self.folder / f"{self._logs}.yaml"
        path.write_text(yaml.safe_dump(config))
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {QUICK}",
        }
        command = [sys.executable, "-W", "error", "-m", "extra_jax.cli", verb, str(path), *overrides]
        return Running(command, environment, self.folder / f"{self._logs}.log")

    def run(self, verb: str, config: dict, *overrides: str, devices: int = 1) -> str:
        """The same, to its successful end."""
        return self.start(verb, config, *overrides, devices=devices).finish()

    def start_processes(self, verb: str, config: dict, *overrides: str, count: int, devices: int) -> list[Running]:
        """``count`` processes of one run, with ``devices`` each."""
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        joined = ("distributed.enabled=true", f"distributed.coordinator_address={address}")
        return [
            self.start(
                verb, config, *overrides, *joined, f"distributed.num_processes={count}",
                f"distributed.process_id={index}", devices=devices,
            )
            for index in range(count)
        ]  # fmt: skip


def grpo(base: Path, run_dir: Path, **train: Any) -> dict:
    """The configuration of all GRPO runs here, with other values of the section ``train``."""
    model = GRPO["model"] | {"preset": None, "path": str(base)}
    return GRPO | {"run": {"dir": str(run_dir)}, "model": model, "train": GRPO["train"] | train}


def checkpoint_steps(run_dir: Path) -> list[int]:
    """Complete checkpoints, ascending."""
    return sorted(int(path.name) for path in (run_dir / "checkpoints").glob("*") if path.name.isdigit())


def read_checkpoint(run_dir: Path) -> tuple[int, dict[str, np.ndarray], str]:
    """The newest checkpoint: its step, its arrays by path, and its host state as text."""
    step = checkpoint_steps(run_dir)[-1]
    folder = run_dir / "checkpoints" / str(step)
    with ocp.PyTreeCheckpointer() as reader:
        names = reader.metadata(folder / "arrays").item_metadata.tree
        restore = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in names}
        arrays = reader.restore(folder / "arrays", restore_args=restore)
    return step, arrays, (folder / "host" / "metadata").read_text()


def assert_same_run(run_dir: Path, expected: Path) -> None:
    """Two runs ended alike: state, numbers of every step, completions, evaluations and export, bit for bit."""
    (step, arrays, host), (expected_step, expected_arrays, expected_host) = map(read_checkpoint, (run_dir, expected))
    assert (step, host) == (expected_step, expected_host)
    assert arrays.keys() == expected_arrays.keys()
    for name, array in expected_arrays.items():
        np.testing.assert_array_equal(arrays[name], array, err_msg=name, strict=True)
    assert metric_rows(run_dir) == metric_rows(expected)
    for pattern in ("rollouts/*", "evals/*/*", "export/*"):
        files = sorted(path.relative_to(expected) for path in expected.glob(pattern))
        assert files == sorted(path.relative_to(run_dir) for path in run_dir.glob(pattern))
        for file in files:
            assert (run_dir / file).read_bytes() == (expected / file).read_bytes(), f"{file} differs"


def metric_rows(run_dir: Path) -> list[dict[str, Any]]:
    """The numbers of each step without those that measure time."""
    clocks = ("time", "step_time", "tokens_per_second", "exploration/encoder_s")
    return [
        {name: value for name, value in row.items() if name not in clocks and not name.startswith("timing_s/")}
        for row in read_metrics(run_dir)
    ]


def assert_close_metrics(run_dir: Path, expected: Path, tolerance: float) -> None:
    """The same names and steps, and numbers that differ by rounding only."""
    rows, expected_rows = metric_rows(run_dir), metric_rows(expected)
    assert [row.keys() for row in rows] == [row.keys() for row in expected_rows]
    for row, wanted in zip(rows, expected_rows, strict=True):
        for name, value in wanted.items():
            if isinstance(value, float):
                message = f"step {wanted['step']}: {name}"
                np.testing.assert_allclose(row[name], value, rtol=tolerance, atol=tolerance, err_msg=message)
            else:
                assert row[name] == value, f"step {wanted['step']}: {name}"


def steps_done(run_dir: Path, since: float = 0.0) -> int:
    """The last training step that was written down after ``since`` (Unix seconds), 0 where there is none."""
    path = run_dir / METRICS_FILE
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    rows = [parse_row(line, path, number) for number, line in enumerate(lines, start=1)]
    return max((row["step"] for row in rows if row["time"] > since and "step_time" in row), default=0)


def saving(run_dir: Path) -> bool:
    """Whether a checkpoint is being written."""
    return any((run_dir / "checkpoints").glob("*.orbax-checkpoint-tmp*"))
