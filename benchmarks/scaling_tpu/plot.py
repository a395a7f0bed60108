"""Draws ``results.csv`` as ``results.svg``: what a chip holds and sends as chips are added.

python -m benchmarks.scaling_tpu.plot
"""

import csv
from pathlib import Path

from extra_jax.telemetry import charts

HERE = Path(__file__).parent
Row = dict[str, str]


def main() -> None:
    rows = sorted(csv.DictReader((HERE / "results.csv").open()), key=lambda row: int(row["chips"]))
    recommended = [row for row in rows if int(row["fsdp"]) <= 16 and row["slices"] == "1"]
    ways = {
        "fsdp 16 x data": recommended,
        "fsdp only": [row for row in rows if row["data"] == "1"],
        "two slices": [row for row in rows if row["slices"] == "2"],
    }
    memory = {"update": "update_gib", "its temporaries": "update_temporary_gib"}
    panels = {
        "GiB of memory a chip, fsdp 16": {label: of(recommended, column) for label, column in memory.items()},
        "GB on links a chip, micro-batch of 8,192 tokens": {
            label: of(chosen, "micro_batch_links_gb") for label, chosen in ways.items()
        },
    }
    drawn = []
    for title, lines in panels.items():
        series = [
            charts.Line(label, *points, color, exact=True)
            for color, (label, points) in enumerate(lines.items())
            if points[0]
        ]
        drawn.append(charts.line_chart(series, x="chips", powers=True).titled(title))
    charts.save(HERE / "results.svg", *drawn, columns=2)


def of(rows: list[Row], column: str) -> tuple[list[float], list[float]]:
    return [float(row["chips"]) for row in rows], [float(row[column]) for row in rows]


if __name__ == "__main__":
    main()
