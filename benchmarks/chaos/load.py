"""What a long run of tiny steps takes: memory, descriptors, threads, processes, and the time to go on and to report.

    PYTHONPATH=$PWD python benchmarks/chaos/load.py WORK [--steps 2000] [--out benchmarks/chaos]

One process trains with exploration, evaluations and two pools of worker processes. At 500, 1,000 and 2,000 steps its
folder is copied; afterwards each copy is continued by one step and reported. Writes ``load.csv`` (a line every twenty
steps), ``load_times.csv`` (seconds of the processor) and ``load.svg``. Exits with 1 where the second half of the run
has more descriptors, threads or processes at once than the first, or takes more than 0.05 MB of memory a step. Called
again with the same WORK after training has ended, it only measures the copies.
"""

import argparse
import contextlib
import csv
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SETTINGS = (
    "data.limit=64", "eval.data.limit=4", "eval.num_generations=2", "train.prompts_per_step=4",
    "train.num_generations=4", "train.row_length=64", "train.micro_batch_rows=8", "rollout.max_completion_length=16",
    "rollout.slots=16", "rollout.chunk=16", "mesh.emulated_cpu_devices=1", "checkpoint={every: 20, keep: 2}",
    "explore.prompts.prefixes={guided_fraction: 0.25, warmup_steps: 1, min_tokens: 4, min_gap: 4, every: 4}",
    "reward.functions=[auto, {function: math, weight: 0}, {function: format, weight: 0}]",
)  # fmt: skip
COLUMNS = ("memory_mb", "memory_workers_mb", "descriptors", "descriptors_workers", "threads", "processes")
LARGEST_SLOPE = 0.05
"""MB of memory a step, over the second half of the run."""
COPIES = (500, 1000, 2000)
EVERY = 20


def processes(pid: int) -> Iterator[int]:
    """A process and all that come of it."""
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from processes(int(child))


def look(pid: int) -> dict[str, float]:
    """The numbers of ``COLUMNS``; a worker that is replaced meanwhile is not counted."""
    seen = []
    for process in [pid, *list(processes(pid))[1:]]:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            status = Path(f"/proc/{process}/status").read_text()
            numbers = [int(re.search(rf"{key}:\s+(\d+)", status)[1]) for key in ("VmRSS", "Threads")]
            seen.append((numbers[0] / 1024, numbers[1], len(os.listdir(f"/proc/{process}/fd"))))
    trainer, *workers = seen
    memory, open_files = (sum(worker[i] for worker in workers) for i in (0, 2))
    return dict(zip(COLUMNS, (trainer[0], memory, trainer[2], open_files, trainer[1], len(seen)), strict=True))


def command(run: Path, steps: int) -> list[str]:
    return [sys.executable, "-m", "extra_jax.cli", "train", str(ROOT / "configs/exploration.yaml"), *SETTINGS,
            f"train.max_steps={steps}", "eval.every=450", f"run.dir={run}"]  # fmt: skip


def lines(run: Path) -> int:
    file = run / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def newest(run: Path) -> int:
    return max((int(path.name) for path in (run / "checkpoints").glob("*") if path.name.isdigit()), default=0)


def train(work: Path, steps: int) -> list[dict[str, float]]:
    """Trains, looks at the process every ``EVERY`` steps, and copies the folder at the steps of ``COPIES``."""
    run, seen, copies = work / "run", [], [step for step in COPIES if step < steps]
    shutil.rmtree(run, ignore_errors=True)
    with open(work / "run.log", "w") as log:
        process = subprocess.Popen(command(run, steps), stdout=log, stderr=log, cwd=ROOT)
        while process.poll() is None:
            if lines(run) >= EVERY * (len(seen) + 1):
                with contextlib.suppress(OSError, IndexError):  # it has just ended
                    seen.append({"step": lines(run), **look(process.pid)})
            if copies and newest(run) >= copies[0]:
                copied = work / f"at_{copies.pop(0)}"
                shutil.rmtree(copied, ignore_errors=True)
                kept = shutil.ignore_patterns("*.tmp", "*orbax*", *[str(n) for n in range(newest(run))])
                shutil.copytree(run, copied, ignore=kept)
            time.sleep(0.1)
    assert process.returncode == 0, (work / "run.log").read_text()[-2000:]
    shutil.rmtree(work / f"at_{steps}", ignore_errors=True)
    run.rename(work / f"at_{steps}")
    return seen


def times(work: Path, step: int) -> dict[str, float]:
    """Continues a copy by one step, to its end, and writes its report once more; sizes."""
    source, run = work / f"at_{step}", work / "copy"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(source, run) if step else None
    first = newest(run)
    with open(work / "copy.log", "w") as log:
        process = subprocess.Popen(command(run, first + 1), stdout=log, stderr=log, cwd=ROOT)
        _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, (work / "copy.log").read_text()[-2000:]
    program = f"""
import json, time
from extra_jax.telemetry.report import write_report
before = time.process_time()
path = write_report({str(run)!r})
print(json.dumps([time.process_time() - before, path.stat().st_size / 1024]))
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    report = json.loads(said)
    megabytes = sum(path.stat().st_size for path in (run / "rollouts").iterdir()) / 2**20
    return {"step": first, "go_on_s": usage.ru_utime + usage.ru_stime, "report_s": report[0], "report_kb": report[1],
            "metrics_kb": (run / "metrics.jsonl").stat().st_size / 1024, "rollouts_mb": megabytes}  # fmt: skip


def growth(seen: list[dict[str, float]]) -> dict[str, float]:
    """From the first half of the run to the second: of memory the slope of the second, by least squares, in MB a step;
    of all else how many more there are at once."""
    half = len(seen) // 2
    mean_step = sum(row["step"] for row in seen[half:]) / len(seen[half:])
    below = sum((row["step"] - mean_step) ** 2 for row in seen[half:])
    return {
        name: sum((row["step"] - mean_step) * row[name] for row in seen[half:]) / below
        if name.startswith("memory")
        else max(row[name] for row in seen[half:]) - max(row[name] for row in seen[:half])
        for name in COLUMNS
    }


def draw(seen: list[dict[str, float]], path: Path) -> None:
    from extra_jax.telemetry.charts import Line, line_chart, save

    steps = [row["step"] for row in seen]
    charts = []
    for title, unit, names in (
        ("Memory", "MB", {"trainer": "memory_mb", "its workers": "memory_workers_mb"}),
        ("Open descriptors", "", {"trainer": "descriptors", "its workers": "descriptors_workers"}),
        ("Threads of the trainer", "", {"threads": "threads"}),
        ("Processes, workers included", "", {"processes": "processes"}),
    ):
        drawn = [
            Line(label, steps, [row[name] for row in seen], i, exact=True)
            for i, (label, name) in enumerate(names.items())
        ]
        charts.append(line_chart(drawn, unit=unit).titled(title))
    save(path, *charts, columns=2)


def write(path: Path, rows: list[dict[str, float]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: round(value, 2) for name, value in row.items()} for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=lambda text: Path(text).absolute())
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    args = parser.parse_args()
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(args.work / "cache")
    args.work.mkdir(parents=True, exist_ok=True)
    if not (args.work / f"at_{args.steps}").exists():
        seen = train(args.work, args.steps)
        write(args.out / "load.csv", seen)
        draw(seen, args.out / "load.svg")
    with (args.out / "load.csv").open() as file:
        grown = growth([{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)])
    steps = [0, *(step for step in COPIES if step < args.steps), args.steps]
    write(args.out / "load_times.csv", [times(args.work, step) for step in steps])
    grows = [name for name, amount in grown.items() if amount > (LARGEST_SLOPE if name.startswith("memory") else 0)]
    print(json.dumps(grown), f"grows: {', '.join(grows)}" if grows else "flat", sep="\n")
    return int(bool(grows))


if __name__ == "__main__":
    sys.exit(main())
