"""A run of several CPU processes to disturb, and whether it ended like one that nothing disturbed."""

import hashlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
import transformers

import extra_jax.assemble
from extra_jax import runtime
from extra_jax.cli import main
from extra_jax.config import MeshConfig
from extra_jax.parallel.mesh import make_mesh

ROOT = Path(__file__).parents[2]
SETTINGS = [
    "train.max_steps=3", "train.prompts_per_step=8", "train.num_generations=4", "train.num_minibatches=1",
    "data.limit=32", "rollout.max_completion_length=24", "rollout.slots=16", "rollout.chunk=4",
    "train.micro_batch_rows=1", "train.row_length=64", "eval.every=2", "eval.data.limit=8", "eval.num_generations=2",
    "checkpoint.every=1", "mesh.data=1", "mesh.fsdp=-1",
]  # fmt: skip
CLOCKS = ("time", "step_time", "tokens_per_second")
IMPORTED = (transformers, extra_jax.assemble)  # so that a fork need not


class Trouble(Exception):
    """A run did not do what a trial expects of it."""


class Process:
    """A verb of the command line in a fork of this process, which has imported everything and used no device."""

    def __init__(self, arguments: list[str], environment: dict[str, str], log: Path):
        self.returncode: int | None = None
        if not (pid := os.fork()):
            os.environ.update(environment)
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for descriptor, to in ((os.open(os.devnull, os.O_RDONLY), 0), (output, 1), (output, 2)):
                os.dup2(descriptor, to)
            os.setsid()
            runtime.make_mesh = interleaved
            sys.exit(main(arguments))  # not os._exit: what ends a process is a part of what is tried
        self.pid = pid

    def poll(self) -> int | None:
        if self.returncode is None and (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
            self.returncode = os.waitstatus_to_exitcode(ended[1])
        return self.returncode

    def send(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def interleaved(config: MeshConfig) -> jax.sharding.Mesh:
    """Devices as on a slice of TPU v5e: a host owns 2x2 chips of a torus, so in row order its rows are not together."""
    devices = jax.devices()
    return make_mesh(config, [*devices[0::2], *devices[1::2]])


class Pod:
    """``count`` processes with ``devices`` each that train together; what they print goes beside ``run``.

    Args:
        run: ``run.dir``; of process ``i`` its ``i``-th where it is a list.
        settings: further ``key=value``.
    """

    def __init__(self, run: Path | list[Path], *settings: str, count: int, devices: int = 2):
        runs = run if isinstance(run, list) else [run] * count
        self.run = runs[0]
        self.run.parent.mkdir(parents=True, exist_ok=True)
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        self.logs = [self.run.with_name(f"{self.run.name}.{index}.log") for index in range(count)]
        self.processes = [
            Process(
                [
                    "train", f"{ROOT}/configs/quickstart.yaml", *SETTINGS, f"mesh.emulated_cpu_devices={devices}",
                    f"run.dir={runs[index]}", "distributed.enabled=true", f"distributed.coordinator_address={address}",
                    f"distributed.num_processes={count}", f"distributed.process_id={index}", *settings,
                ],
                {"POD_PROCESS": str(index)},
                self.logs[index],
            )
            for index in range(count)
        ]  # fmt: skip

    def until(self, happened: Callable[[], bool], seconds: float = 600.0) -> None:
        """Waits for a moment at which all processes still run."""
        deadline = time.monotonic() + seconds
        while not happened():
            if time.monotonic() > deadline or any(process.poll() is not None for process in self.processes):
                raise Trouble(f"the moment has not come:\n{self.printed()}")
            time.sleep(0.005)

    def finish(self, seconds: float) -> tuple[list[int], float]:
        """Exit statuses, and after how many seconds the last process had ended; at most so many are waited."""
        began = time.monotonic()
        while any(process.poll() is None for process in self.processes):
            if time.monotonic() > began + seconds:
                raise Trouble(f"still there after {seconds} s:\n{self.printed()}")
            time.sleep(0.02)
        return [process.returncode for process in self.processes], time.monotonic() - began

    def says(self, text: str, index: int | None = None) -> bool:
        """Whether a process, or one of them, has printed it."""
        return any(text in log.read_text() for log in (self.logs if index is None else [self.logs[index]]))

    def printed(self) -> str:
        return "\n".join(f"--- {log.name}\n{log.read_text()[-3000:]}" for log in self.logs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.send(signal.SIGKILL)
            while process.poll() is None:
                time.sleep(0.01)


def steps(run: Path) -> int:
    """Finished training steps that are written down."""
    return max((row["step"] for row in _rows(run) if "step_time" in row), default=0)


def saving(run: Path) -> bool:
    return any((run / "checkpoints").glob("*orbax-checkpoint-tmp*"))


def evaluating(run: Path) -> bool:
    return any(run.glob("evals/*/*.part.jsonl"))


def differences(run: Path, expected: Path) -> list[str]:
    """What of the result of a run is not, bit for bit, that of another one; read in a fork, as this process must not
    use a device."""
    answer = run.with_name(f"{run.name}.differences.json")
    if not (pid := os.fork()):
        ours, others = contents(run), contents(expected)
        names = [name for name in sorted(ours.keys() | others.keys()) if ours.get(name) != others.get(name)]
        answer.write_text(json.dumps(names))
        os._exit(0)
    os.waitpid(pid, 0)
    return json.loads(answer.read_text())


def contents(run: Path) -> dict[str, Any]:
    """Digests of everything that a run leaves."""
    saved = max((p for p in (run / "checkpoints").glob("*") if p.name.isdigit()), key=lambda path: int(path.name))
    with ocp.PyTreeCheckpointer() as reader:
        names = reader.metadata(saved / "arrays").item_metadata.tree
        arrays = reader.restore(
            saved / "arrays", restore_args={name: ocp.RestoreArgs(restore_type=np.ndarray) for name in names}
        )
    result = {f"checkpoint {name}": _digest(array.tobytes()) for name, array in arrays.items()}
    result["checkpoint step"] = saved.name
    for row in _rows(run):
        kept = {k: v for k, v in row.items() if k not in CLOCKS and not k.startswith("timing_s/")}
        result.setdefault(f"metrics {row['step']}", []).append(kept)
    for pattern in ("rollouts/*", "evals/*/*", "export/*"):
        for path in sorted(run.glob(pattern)):
            result[str(path.relative_to(run))] = _digest(path.read_bytes())
    return result


def _rows(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
