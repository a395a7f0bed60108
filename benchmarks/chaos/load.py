"""Memory, descriptors, threads and processes of a long run of tiny steps, with exploration and an evaluation.

    python benchmarks/chaos/load.py --steps 2000 --out benchmarks/chaos/load.json

Writes what was seen every ``--every`` steps, the growth from the half of the run to its end, and exits with 1 where
something grows: descriptors, threads or processes at all, memory by more than 0.05 MB a step.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
SETTINGS = (
    "data.limit=64", "eval.data.limit=4", "eval.num_generations=2", "train.prompts_per_step=8",
    "train.num_generations=4", "train.row_length=64", "train.micro_batch_rows=16", "rollout.max_completion_length=24",
    "rollout.slots=32", "rollout.chunk=24", "mesh.emulated_cpu_devices=1", "checkpoint.every=20",
    "explore.prompts.prefixes.warmup_steps=1", "explore.prompts.prefixes.guided_fraction=0.25",
)  # fmt: skip
LARGEST_GROWTH = {"memory_mb": 0.05, "descriptors": 0.0, "threads": 0.0, "processes": 0.0}
"""A step, over the second half of the run."""


def look(pid: int) -> dict[str, float]:
    status = Path(f"/proc/{pid}/status").read_text()
    children = subprocess.run(["ps", "--ppid", str(pid), "-o", "pid="], capture_output=True, text=True, check=False)
    return {
        "memory_mb": int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024,
        "descriptors": len(list(Path(f"/proc/{pid}/fd").iterdir())),
        "threads": int(re.search(r"Threads:\s+(\d+)", status)[1]),
        "processes": len(children.stdout.split()),
    }


def watch(run: Path, steps: int, every: int, seconds: float) -> list[dict[str, float]]:
    """Trains, and looks at the process whenever ``every`` further steps are done; stops it after ``seconds``."""
    command = [sys.executable, "-m", "extra_jax.cli", "train", str(ROOT / "configs/exploration.yaml"), *SETTINGS,
               f"train.max_steps={steps}", f"eval.every={max(1, steps // 4)}", f"run.dir={run}"]  # fmt: skip
    seen, end, next_step = [], time.monotonic() + seconds, every
    with open(run.with_suffix(".log"), "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)
        while process.poll() is None and time.monotonic() < end:
            metrics = run / "metrics.jsonl"
            done = metrics.read_bytes().count(b"\n") if metrics.exists() else 0
            if done >= next_step:
                seen.append({"step": done, **look(process.pid)})
                next_step = done + every
            time.sleep(0.05)
        process.terminate()
        process.wait()
    return seen


def slopes(seen: list[dict[str, float]]) -> dict[str, float]:
    """Growth a step from the half of the run on, by least squares."""
    late = [row for row in seen if row["step"] >= seen[-1]["step"] / 2]
    mean_step = sum(row["step"] for row in late) / len(late)
    below = sum((row["step"] - mean_step) ** 2 for row in late)
    return {name: sum((row["step"] - mean_step) * row[name] for row in late) / below for name in LARGEST_GROWTH}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--every", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=3600.0, help="stop after this time")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seen = watch(Path(folder) / "run", args.steps, args.every, args.seconds)
        if len(seen) < 4:
            print((Path(folder) / "run.log").read_text()[-2000:])
            return 1
        run = Path(folder) / "run"
        kilobytes = {name: (run / name).stat().st_size / 1024 for name in ("metrics.jsonl",)}
        kilobytes["rollouts"] = sum(path.stat().st_size for path in (run / "rollouts").iterdir()) / 1024
    growth = slopes(seen)
    result = {"steps": seen[-1]["step"], "growth_a_step": growth, "kilobytes": kilobytes, "columns": list(seen[0])}
    if args.out:
        rows = ",\n  ".join(json.dumps([round(value, 1) for value in row.values()]) for row in seen)
        args.out.write_text(f'{json.dumps(result, indent=1)[:-2]},\n "seen": [\n  {rows}\n ]\n}}\n')
    print(json.dumps({name: result[name] for name in ("steps", "growth_a_step", "kilobytes")}))
    grows = [name for name, most in LARGEST_GROWTH.items() if growth[name] > most + 1e-9]
    print(f"grows: {', '.join(grows)}" if grows else "flat")
    return int(bool(grows))


if __name__ == "__main__":
    sys.exit(main())
