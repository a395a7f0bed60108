"""Short real runs whose every token, advantage and parameter is pinned in ``trajectories.json``.

A run is a verb of the command line in a process of its own. What is compared is read from what it left on disk, so the
inside of the program may change freely: only the mathematics may not. The numbers belong to a processor and a version
of jax (``signature``), because compilers round differently.

    python -m tests.golden.record            # writes trajectories.json anew, with a reason in the commit message
"""

import hashlib
import json
import os
import platform
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax

FILE = Path(__file__).parent / "trajectories.json"
_ROOT = Path(__file__).parents[2]
_STEPS = 6
# Two steps are an epoch, so that problems come back; groups of 8, so that some are mixed and some solved twice.
_SMALL = (
    "data.limit=32", f"train.max_steps={_STEPS}", "train.prompts_per_step=16", "optim.warmup_steps=0",
    "optim.learning_rate=1e-4", "eval.data=null", f"checkpoint.every={_STEPS}",
)  # fmt: skip


def signature() -> str:
    """What rounding depends on."""
    flags = ""
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    cpu = hashlib.sha256(" ".join(sorted(flags.split())).encode()).hexdigest()[:12]
    return f"jax {jax.__version__}, {platform.machine()} {cpu}"


def small(config: str, *overrides: str) -> tuple[str, ...]:
    """The arguments of ``train`` for a recipe in small."""
    return ("train", str(_ROOT / "configs" / config), *_SMALL, *overrides)


def run(folder: Path, cache: Path, *arguments: str, flags: str = "--xla_backend_optimization_level=0") -> None:
    """A verb of the command line in ``folder``; programs are compiled once for all runs, with ``flags`` of XLA.

    Raises:
        RuntimeError: it failed; with what it printed.
    """
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": flags,
        "PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        [sys.executable, "-m", "extra_jax.cli", *arguments], env=environment, cwd=folder, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")


def finished(folder: Path, cache: Path, *arguments: str) -> dict[str, Any]:
    """Runs a case in ``folder`` and tells what it did. One that trains on judge scores gets a store of them first."""
    folder.mkdir(parents=True)
    if "exprl.store=store" in arguments:
        _store_of_scores(folder, cache, arguments[1])
    run(folder, cache, *arguments, "run.dir=run")
    return trajectory(folder / "run")


def _store_of_scores(folder: Path, cache: Path, config: str) -> None:
    """Rollouts of the recipe in small, scored by the judge that is a program."""
    run(folder, cache, "rollout", config, "out=store", "data.limit=32", "run.dir=sampled")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, str(_ROOT / "scripts/judge_server.py"), "--port", str(port)],
        env=os.environ | {"PYTHONPATH": str(_ROOT)}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("localhost", port)) == 0:
                    break
            time.sleep(0.1)
        address = f"endpoint=http://localhost:{port}/v1"
        run(folder, cache, "judge", "store", address, "model=chain-judge", "rubric=process_prefix_v1")
    finally:
        server.terminate()
        server.wait()


def trajectory(run_dir: Path) -> dict[str, Any]:
    """What a finished run did: of each step the hash of its tokens, advantages and bonuses; its parameters."""
    steps = []
    for path in sorted((run_dir / "rollouts").glob("step_*.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        steps.append(
            {
                "tokens": _hash([[row["uid"], row["rollout_id"], row["completion_ids"]] for row in rows]),
                "logprobs": _hash([row["logprobs"] for row in rows]),
                "rewards": _hash([row["reward"] for row in rows]),
                "advantages": _hash([row["advantage"] for row in rows]),
                "prefixes": sum(bool(row.get("prefix_ids")) for row in rows),
            }
        )
    export = hashlib.sha256((run_dir / "export" / "model.safetensors").read_bytes()).hexdigest()
    return {"steps": steps, "parameters": export}


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]
