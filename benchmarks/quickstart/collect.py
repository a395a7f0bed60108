"""Collects finished quickstart runs: results.csv (every evaluation), results.md (before and after), curve.svg."""

import argparse
import csv
from pathlib import Path

import yaml

from extra_jax.telemetry.evaluations import read_evaluations
from extra_jax.telemetry.metrics import read_metrics
from extra_jax.telemetry.report import write_curve_svg
from extra_jax.telemetry.statistics import paired_difference

HERE = Path(__file__).parent
SCORES = ("pass@1", "pass@16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="run directories, the first one gives the picture")
    runs = parser.parse_args().runs
    rows, lines = [], []
    for run in runs:
        seed = yaml.safe_load((run / "config.yaml").read_text())["run"]["seed"]
        evaluations = next(iter(read_evaluations(run).values()))
        for evaluation in evaluations:
            for score in SCORES:
                rows.append({"seed": seed, "step": evaluation["step"], "score": score, **evaluation["summary"][score]})
        lines.append(summary_line(seed, evaluations[0], evaluations[-1], training_minutes(run)))
    with (HERE / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["seed", "step", "score", "mean", "low", "high"])
        writer.writeheader()
        writer.writerows({k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    head = "| seed | pass@1 before | pass@1 after | change (paired) | pass@16 before | pass@16 after | minutes |"
    (HERE / "results.md").write_text("\n".join([head, "|---" * 7 + "|", *lines]) + "\n")
    write_curve_svg(runs[0], HERE / "curve.svg")
    print((HERE / "results.md").read_text())


def summary_line(seed: int, before: dict, after: dict, minutes: float) -> str:
    def show(value: dict[str, float]) -> str:
        return f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"

    change = show(paired_difference(before["correct"], after["correct"]))
    first, last = before["summary"], after["summary"]
    cells = (show(first["pass@1"]), show(last["pass@1"]), change, show(first["pass@16"]), show(last["pass@16"]))
    return f"| {seed} | " + " | ".join(cells) + f" | {minutes:.1f} |"


def training_minutes(run: Path) -> float:
    """Wall time from the first to the last line of the log."""
    times = [row["time"] for row in read_metrics(run)]
    return (max(times) - min(times)) / 60


if __name__ == "__main__":
    main()
