"""Draws ``results.csv`` as ``results.svg``: what a chip holds and sends where ``fsdp`` goes over the whole slice.

python -m benchmarks.scaling_tpu.plot
"""

import csv
from pathlib import Path

from benchmarks.exploration.figures import save
from extra_jax.telemetry.svg import Series, line_chart

HERE = Path(__file__).parent
CHARTS = {  # title -> label -> column
    "GiB of memory a chip": {"update": "update_gib", "its temporaries": "update_temporary_gib"},
    "GB on links a chip, micro-batch of 8,192 tokens": {"links": "micro_batch_links_gb"},
}


def main() -> None:
    rows = list(csv.DictReader((HERE / "results.csv").open()))
    rows = sorted((row for row in rows if row["data"] == "1"), key=lambda row: int(row["chips"]))
    chips = [float(row["chips"]) for row in rows]
    charts = []
    for title, columns in CHARTS.items():
        series = [
            Series(label, chips, [float(row[column]) for row in rows], color, points=True)
            for color, (label, column) in enumerate(columns.items())
        ]
        chart = line_chart(series, description=title, x_label="chips", log2_x=True, width=400, height=216)
        charts.append((title, chart))
    save(HERE / "results.svg", charts)


if __name__ == "__main__":
    main()
