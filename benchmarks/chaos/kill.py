"""SIGKILL at chosen and at random moments until a run ends, again and again; each ended run is compared, bit for bit,
with one that nothing disturbed.

    PYTHONPATH=$PWD python benchmarks/chaos/kill.py WORK [--kills 300] [--minutes 60] [--variants plain,eval] [--seed 1]

WORK/runs.jsonl has a line per ended run, WORK/summary.json the sums. Called again with the same WORK it adds to them.
"""

import argparse
import collections
import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

ROOT = Path(__file__).parents[2]
TINY = [
    "train.max_steps=8", "train.prompts_per_step=4", "train.num_generations=4", "data.limit=32", "checkpoint.every=2",
    "mesh.emulated_cpu_devices=1", "rollout.max_completion_length=24", "train.row_length=64", "rollout.slots=16",
    "train.micro_batch_rows=16", "eval.data.limit=4", "eval.every=4", "eval.num_generations=2", "rollout.chunk=24",
]  # fmt: skip
GRPO = ["train", f"{ROOT}/configs/quickstart.yaml", *TINY, "train.dump_steps=[3,6]"]
EXPLORATION = ["train", f"{ROOT}/configs/exploration.yaml"]
EXPRL = ["exprl", f"{ROOT}/configs/exprl_self_distillation.yaml"]
TWO = ["distributed.enabled=true", "distributed.num_processes=2"]
VARIANTS = {
    "plain": [*GRPO, "train.beta=0.1"],
    "exploration": [
        *EXPLORATION,
        *TINY,
        "explore.prompts.prefixes={guided_fraction: 0.25, warmup_steps: 1, min_tokens: 4, min_gap: 4, every: 4}",
    ],
    "exprl": [*EXPRL, *TINY, "exprl.steps_per_round=2", "train.row_length=128"],
    "eval": [*GRPO, "eval.every=2", "eval.data.limit=24", "eval.num_generations=8"],
    "two processes": [*GRPO, *TWO],
}
CLOCKS = ("time", "step_time", "tokens_per_second", "exploration/encoder_s")
UNFINISHED = re.compile(r"\.tmp$|\.tmp\b|orbax-checkpoint-tmp|\.incomplete|\.part\.|\.replaced|\.aside")
ENVIRONMENT = {
    "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
}  # fmt: skip

MOMENTS = {
    "saving": lambda run, before: any((run / "checkpoints").glob("*orbax-checkpoint-tmp*")),
    "temporary file": lambda run, before: any(
        any(run.glob(f"{d}.*.tmp")) for d in ("", "rollouts/", "replay/", "evals/*/")
    ),
    "after a step": lambda run, before: lines(run) > before[0],
    "checkpoint replaced": lambda run, before: checkpoints(run) not in ([], before[1]),
    "evaluation": lambda run, before: any(run.glob("evals/*/*.part.jsonl")),
    "export": lambda run, before: (run / "export.incomplete").exists() or (run / "export").exists(),
}
CHOICES = ["any time", "any time", "start", *MOMENTS, "saving", "after a step"]


def serve_forks() -> None:
    """A process that has imported everything forks one that runs a verb, for each line of its standard input."""
    import jax
    import orbax.checkpoint
    import transformers

    import extra_jax.assemble
    import extra_jax.exprl.loop
    from extra_jax.cli import main

    assert all((jax, orbax, transformers, extra_jax))
    print("ready", flush=True)
    for line in sys.stdin:
        if not (pid := os.fork()):
            arguments, log = json.loads(line)
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            for descriptor, to in ((os.open(os.devnull, os.O_RDONLY), 0), (output, 1), (output, 2)):
                os.dup2(descriptor, to)
            os.setsid()
            os._exit(main(arguments))
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


class Process:
    """A verb in a fork; each has a fork server of its own, so that its end can be waited for."""

    idle: ClassVar[list[subprocess.Popen]] = []

    def __init__(self, arguments: list[str], log: Path, cache: Path):
        if not Process.idle:
            environment = os.environ | ENVIRONMENT | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
            command = [sys.executable, __file__, "--serve"]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
            Process.idle.append(subprocess.Popen(command, env=environment, **pipes))
            assert Process.idle[-1].stdout.readline() == "ready\n"
        self.server = Process.idle.pop()
        self.server.stdin.write(json.dumps([arguments, str(log)]) + "\n")
        self.pid = int(self.server.stdout.readline())

    def alive(self) -> bool:
        """Not a zombie either: the server reaps at once."""
        return Path(f"/proc/{self.pid}").exists()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # it may have ended
            os.kill(self.pid, signal.SIGKILL)

    def status(self) -> int:
        code = int(self.server.stdout.readline())
        Process.idle.append(self.server)
        return code


def lines(run: Path) -> int:
    file = run / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def checkpoints(run: Path) -> list[int]:
    return sorted(int(p.name) for p in (run / "checkpoints").glob("*") if p.name.isdigit())


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def start(variant: str, run: Path, cache: Path) -> list[Process]:
    arguments = [*VARIANTS[variant], f"run.dir={run}"]
    if "distributed.enabled=true" not in arguments:
        return [Process(arguments, run.with_suffix(".log"), cache)]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        arguments.append(f"distributed.coordinator_address=localhost:{free.getsockname()[1]}")
    return [Process([*arguments, f"distributed.process_id={i}"], run.with_suffix(".log"), cache) for i in (0, 1)]


def contents(run: Path) -> dict[str, object]:
    """All that must be the same in two runs, by name."""
    import numpy as np
    import orbax.checkpoint as ocp

    newest, found = run / "checkpoints" / str(checkpoints(run)[-1]), {"checkpoints": checkpoints(run)}
    for item in ("arrays", "explore"):
        with ocp.PyTreeCheckpointer() as reader:
            if (newest / item).exists():
                names = reader.metadata(newest / item).item_metadata.tree
                as_numpy = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in names}
                for name, array in reader.restore(newest / item, restore_args=as_numpy).items():
                    found[f"{item}/{name}"] = (
                        str(array.dtype),
                        hashlib.sha256(np.asarray(array).tobytes()).hexdigest(),
                    )
    found["host"] = (newest / "host" / "metadata").read_text()
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    found["metrics"] = [{k: v for k, v in r.items() if k not in CLOCKS and not k.startswith("timing_s/")} for r in rows]
    for path in (p for folder in ("rollouts", "evals", "export", "replay", "store") for p in (run / folder).rglob("*")):
        if path.suffix == ".npz":  # `about` names run.dir
            with np.load(path) as file:
                data = b"".join(file[name].tobytes() for name in sorted(file.files) if name != "about")
        else:
            data = path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(run))] = sha256(data)
    return found | {"report": (run / "report.html").exists()}


def kill_until_it_ends(variant: str, run: Path, cache: Path, rng: random.Random, seconds: float) -> tuple[list, int]:
    """Kills up to ten times, then lets it end; returns the moments and the exit status."""
    kills: list[str] = []
    while True:
        before, began = (lines(run), checkpoints(run)), time.monotonic()
        processes = start(variant, run, cache)
        moment = rng.choice(CHOICES) if len(kills) < 10 else "never"
        patience = {"any time": rng.uniform(1, seconds), "start": rng.uniform(0, 6), "never": float("inf")}
        at = began + patience.get(moment, rng.uniform(0.3, 1) * seconds)  # a moment may not come any more
        delay = rng.choice([0, 0, rng.uniform(0, 0.005), rng.uniform(0, 0.08)])
        while all(process.alive() for process in processes):
            if time.monotonic() > at or (moment in MOMENTS and MOMENTS[moment](run, before)):
                time.sleep(delay)
                for process in rng.sample(processes, len(processes)):
                    process.kill()
                    time.sleep(delay)
                break
            assert time.monotonic() < began + 1200, f"{run} hangs"
            time.sleep(0.002 if moment in MOMENTS else 0.05)
        statuses = [process.status() for process in processes]
        if -signal.SIGKILL not in statuses:
            return kills, max(statuses, key=abs)
        kills.append(moment)


def compared(run: Path, reference: Path) -> dict[str, list[str]]:
    """Names of what differs, and files that no finished run has."""
    ours, theirs = contents(run), contents(reference)
    return {
        "differences": [name for name in sorted(ours.keys() | theirs.keys()) if ours.get(name) != theirs.get(name)],
        "leftovers": [str(path.relative_to(run)) for path in run.rglob("*") if UNFINISHED.search(path.name)],
    }


def summary(work: Path) -> dict[str, object]:
    """The sums over all runs that ended."""
    runs = [json.loads(line) for line in (work / "runs.jsonl").read_text().splitlines()]
    count = lambda key: sum(bool(run[key]) for run in runs)  # noqa: E731
    by_variant = {
        variant: {"runs": len(own), "kills": sum(len(run["kills"]) for run in own)}
        for variant in VARIANTS
        if (own := [run for run in runs if run["variant"] == variant])
    }
    return {
        "kills": sum(len(run["kills"]) for run in runs),
        "runs": len(runs),
        "diverged": count("differences"),
        "failed": count("status"),
        "with leftovers": count("leftovers"),
        "moments": collections.Counter(moment for run in runs for moment in run["kills"]),
        "variants": by_variant,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=lambda text: Path(text).absolute())
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    os.environ.update(ENVIRONMENT)
    work, end, rng = given.work, time.monotonic() + 60 * given.minutes, random.Random(given.seed)
    work.mkdir(parents=True, exist_ok=True)
    (work / "runs.jsonl").touch()
    number, variants, seconds = len((work / "runs.jsonl").read_text().splitlines()), given.variants.split(","), {}
    while summary(work)["kills"] < given.kills and time.monotonic() < end:
        variant = variants[number % len(variants)]
        reference = work / f"{variant.replace(' ', '_')}_reference"
        if variant not in seconds:
            for _ in range(1 if reference.exists() else 2):  # the first one compiles
                shutil.rmtree(reference, ignore_errors=True)
                began = time.monotonic()
                statuses = [process.status() for process in start(variant, reference, work / "cache" / "jax")]
                assert not any(statuses), f"see {reference}.log"
            seconds[variant] = time.monotonic() - began
        run = work / f"run_{number}"
        shutil.rmtree(run, ignore_errors=True)
        kills, status = kill_until_it_ends(variant, run, work / "cache" / "jax", rng, seconds[variant])
        result = {"differences": ["not ended"], "leftovers": []} if status else compared(run, reference)
        with (work / "runs.jsonl").open("a") as file:
            file.write(
                json.dumps({"run": number, "variant": variant, "status": status, "kills": kills, **result}) + "\n"
            )
        if not any([status, *result.values()]):
            shutil.rmtree(run)
            run.with_suffix(".log").unlink()
        (work / "summary.json").write_text(json.dumps(summary(work), indent=2) + "\n")
        print(f"run {number} ({variant}): {len(kills)} kills, status {status}, {result}", flush=True)
        number += 1
    print(json.dumps(summary(work), indent=2))


if __name__ == "__main__":
    serve_forks() if sys.argv[1:] == ["--serve"] else main()
