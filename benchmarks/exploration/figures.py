"""Several charts in one SVG file."""

from html import escape
from pathlib import Path

import numpy as np

from extra_jax.telemetry.page_style import CHART_STYLE, VARIABLES
from extra_jax.telemetry.svg import Series

WIDTH, HEIGHT, TITLE = 420, 250, 26


def save(path: Path, charts: list[tuple[str, str]], columns: int = 2) -> None:
    """Writes charts, each a title and an SVG of 420 x 224, on a grid."""
    rows = -(-len(charts) // columns)
    width, height = columns * WIDTH + 20, rows * HEIGHT + 10
    body = []
    for index, (title, svg) in enumerate(charts):
        x, y = 10 + index % columns * WIDTH, 10 + index // columns * HEIGHT
        inner = svg[svg.index(">") + 1 : svg.rindex("</svg>")]
        body.append(
            f'<g transform="translate({x} {y})"><text class="title" x="8" y="16">{escape(title)}</text>'
            f'<g transform="translate(0 {TITLE})">{inner}</g></g>'
        )
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f'<style>{VARIABLES}{CHART_STYLE}</style><rect width="{width}" height="{height}" rx="10" '
        f'fill="var(--surface)"/>{"".join(body)}</svg>\n'
    )


def histogram(label: str, values: np.ndarray, edges: np.ndarray, color: int) -> Series:
    """Share of the values in each bin, as a line through the middles of the bins."""
    counts, _ = np.histogram(values, edges)
    middles = (edges[1:] + edges[:-1]) / 2
    return Series(label, middles.tolist(), (counts / max(len(values), 1)).tolist(), color)
