"""Charts, declared with Altair and drawn as SVG text by vl-convert: no browser, no script, no network.

Colours are CSS variables (``--c0`` to ``--c4``, ``--s1`` to ``--s5`` for ordered ones), so that the page or the
standalone file decides on light and dark: ``assets/report/chart.css``. Values of ``None`` or NaN break a line.
"""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import altair as alt
import numpy as np
import vl_convert
from altair.utils.schemapi import debug_mode
from markupsafe import Markup

from extra_jax.files import write_file
from extra_jax.telemetry.page import ASSETS

POINTS = 200
"""Points of a line at most: longer ones are cut into so many equal stretches, each drawn as its mean, with a pale band
from its smallest to its largest value."""

SMOOTH_FROM = 40
_HOVERS = 80
_DOTTED = 40
_TICK = (
    "datum.value && abs(datum.value) < 1e-3 ? format(datum.value, '.2~e') : "
    "abs(datum.value) >= 1e4 ? format(datum.value, '.3~s') : format(datum.value, ',.4~f')"
)
_CONFIG = {
    "background": None,
    "view": {"stroke": None},
    "mark": {"aria": False},
    "title": {"anchor": "start", "color": "var(--ink)", "fontSize": 14, "offset": 8},
    "axis": {
        "aria": False, "labelColor": "var(--muted)", "titleColor": "var(--muted)", "gridColor": "var(--grid)",
        "domainColor": "var(--axis)", "tickColor": "var(--axis)", "labelFontSize": 11, "titleFontSize": 11,
        "titleFontWeight": "normal", "labelFlush": False, "tickCount": 5,
    },
    "axisX": {"grid": False},
    "legend": {
        "aria": False, "orient": "top", "title": None, "labelColor": "var(--ink)", "labelFontSize": 11,
        "symbolType": "square", "symbolStrokeWidth": 0, "symbolOpacity": 1, "labelLimit": 170, "columns": 3,
        "columnPadding": 16,
    },
}  # fmt: skip

_NAMES = (f"rows{number}" for number in itertools.count())

Value = float | None


class Drawing(NamedTuple):
    """A chart and the rows that it draws, by the name under which it asks for them: Altair copies what it holds."""

    chart: Any
    rows: dict[str, list[dict[str, Any]]]

    def titled(self, title: str, note: str = "") -> "Drawing":
        texts = {"text": title, "subtitle": note, "subtitleColor": "var(--muted)"}
        return self._replace(chart=self.chart.properties(title=texts))


class Line(NamedTuple):
    """One line of a chart: ``x`` ascending, the others of its length.

    With ``low`` and ``high`` it is a measurement, drawn with its intervals; without them it is a noisy curve, which
    from 40 points on is drawn pale under its centred moving average.
    """

    label: str
    x: Sequence[float]
    y: Sequence[Value]
    color: int = 0
    low: Sequence[Value] = ()
    high: Sequence[Value] = ()
    exact: bool = False


@debug_mode(False)
def line_chart(
    lines: Sequence[Line],
    *,
    x: str = "step",
    unit: str = "",
    zero: bool = True,
    powers: bool = False,
    ticks: Sequence[float] = (),
    width: int = 380,
    height: int = 170,
) -> Drawing:
    """Lines over a common axis.

    Args:
        x: title of the axis.
        unit: of ``y``; ``share`` gives percentages.
        zero: the y axis includes 0; otherwise it fits the data.
        powers: a logarithmic x axis with a tick at each power of two.
        ticks: where the x axis has its ticks; by default at round numbers.
    """
    rows = [row for line in lines for row in _rows(line)]
    known = sorted({row["x"] for row in rows})
    if powers:
        ticks = [p for p in (2.0**i for i in range(40)) if known and p <= known[-1]]
    across = alt.X(
        "x:Q",
        title=x,
        scale=alt.Scale(type="log", base=2) if powers else alt.Scale(zero=False, nice=False),
        axis=alt.Axis(
            format="d" if powers else "~s",
            labelOverlap=not powers,
            **({"values": list(ticks)} if ticks else {"tickMinStep": 1}),
        ),
    )
    axis = alt.Axis(format="~%") if unit == "share" else alt.Axis(labelExpr=_TICK)
    up = alt.Y("y:Q", title=None if unit in ("", "share") else unit, scale=alt.Scale(zero=zero), axis=axis)
    base, drawn = _chart(rows)
    dotted = any(row["dot"] for row in rows)
    # Without dots the legend has nothing to fill its squares with: the stroke does it.
    squares = {} if dotted else {"symbolSize": 16, "symbolStrokeWidth": 8}
    base = base.encode(across, up, _colors([(line.label, line.color) for line in lines], **squares))
    marks = {
        "stretch": lambda kind: kind.mark_area(opacity=0.2).encode(alt.Y("low:Q"), y2="high:Q"),
        "raw": lambda kind: kind.mark_line(strokeWidth=1, opacity=0.4).encode(alt.Y("raw:Q")),
        "measured": lambda kind: kind.mark_rule(strokeWidth=2, opacity=0.5).encode(alt.Y("low:Q"), y2="high:Q"),
    }
    kinds = {row["kind"] for row in rows}
    layers = [mark(base.transform_filter(f"datum.kind == '{kind}'")) for kind, mark in marks.items() if kind in kinds]
    layers.append(base.mark_line(strokeWidth=2))
    if dotted:
        layers.append(base.transform_filter("datum.dot").mark_circle(size=32, opacity=1))
    # Strips over the whole height that say what is there; seen under the pointer only.
    strips, said = _chart(_hovers(lines, rows, x, unit))
    wide = max(width / max(1, min(len(known), _HOVERS)), 2)
    layers.append(strips.mark_rule(strokeWidth=wide, opacity=0, aria=True).encode(across, description="text:N"))
    layers[-1].name = "hover"
    return Drawing(alt.layer(*layers).properties(width=width, height=height), drawn | said)


@debug_mode(False)
def stacked_shares(
    parts: Mapping[str, tuple[Sequence[float], Sequence[Value], int]], *, width: int = 380, height: int = 170
) -> Drawing:
    """Shares that add up to 1 over steps: label -> ``(x, shares, colour)``, stacked from the bottom."""
    rows = [
        {"x": row["x"], "y": row["y"], "line": label, "place": place}
        for place, (label, (x, y, color)) in enumerate(parts.items())
        for row in _rows(Line(label, x, y, color))
    ]
    chart, drawn = _chart(rows, width, height)
    chart = (
        chart.mark_area(opacity=0.85)
        .encode(
            alt.X("x:Q", title="step", scale=alt.Scale(zero=False, nice=False), axis=alt.Axis(tickMinStep=1)),
            alt.Y("y:Q", title=None, stack="zero", scale=alt.Scale(domain=[0, 1], clamp=True)).axis(format="%"),
            _colors([(label, color) for label, (_, _, color) in parts.items()]),
            alt.Order("place:Q"),
        )
    )  # fmt: skip
    return Drawing(chart, drawn)


@debug_mode(False)
def heat_map(
    columns: Mapping[float, Sequence[float]], *, y: str, width: int = 380, height: int = 170, bins: int = 16
) -> Drawing:
    """Distributions side by side: step -> values; the darker, the larger the share of the step's values."""
    values = np.concatenate([np.asarray(column, np.float64) for column in columns.values()])
    edges = np.histogram_bin_edges(values, bins)
    rows = []
    for place, (step, column) in enumerate(columns.items()):
        counts, _ = np.histogram(column, edges)
        rows += [
            {"place": place, "step": f"{step:,g}", "low": low, "high": high, "share": count / len(column)}
            for count, low, high in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True)
            if count
        ]
    names = alt.Axis(labelOverlap=True, labelAngle=0)
    chart, drawn = _chart(rows, width, height)
    return Drawing(
        chart.mark_rect(color="var(--c0)").encode(
            alt.X("step:O", sort=alt.EncodingSortField("place"), title="recorded step", axis=names),
            alt.Y("low:Q", title=y, scale=alt.Scale(zero=False, nice=False), axis=alt.Axis(labelExpr=_TICK)),
            alt.Y2("high"),
            alt.Opacity("share:Q", scale=alt.Scale(domainMin=0, range=[0.06, 1]), legend=None),
        ),
        drawn,
    )


@debug_mode(False)
def bars(amounts: Mapping[str, float], notes: Mapping[str, str], *, width: int = 620) -> Drawing:
    """A horizontal bar for each label, with a note beside it."""
    rows = [{"label": label, "amount": amount, "note": notes[label]} for label, amount in amounts.items()]
    base, drawn = _chart(rows)
    base = base.encode(
        alt.Y("label:N", sort=None, title=None, axis=alt.Axis(ticks=False, domain=False, labelFontSize=12)),
        alt.X("amount:Q", axis=None, scale=alt.Scale(domainMax=1.6 * max(amounts.values(), default=1) or 1)),
    )
    bar = base.mark_bar(color="var(--c0)", height={"band": 0.62})
    note = base.mark_text(align="left", dx=6, color="var(--muted)", fontSize=12).encode(text="note:N")
    return Drawing(alt.layer(bar, note).properties(width=width, height={"step": 26}), drawn)


@debug_mode(False)
def forest(estimates: Mapping[str, tuple[float, float, float]], *, x: str = "difference", width: int = 250) -> Drawing:
    """A row for each label: the mean as a dot, its interval as a bar, and a line at 0.

    Args:
        estimates: label -> mean, low and high end.
        x: what the axis says, with the unit.
    """
    rows = [
        {"label": label, "mean": mean, "low": low, "high": high, "sure": not low <= 0 <= high}
        for label, (mean, low, high) in estimates.items()
    ]
    base, drawn = _chart(rows)
    room = 6.5 * max(map(len, estimates), default=0)
    labels = alt.Axis(ticks=False, domain=False, grid=False, labelLimit=320, minExtent=room, labelFontSize=12)
    y = alt.Y("label:N", sort=None, title=None, axis=labels)
    color = alt.condition("datum.sure", alt.value("var(--c0)"), alt.value("var(--c4)"))
    zero = base.mark_rule(color="var(--axis)").encode(x=alt.datum(0))
    bar = base.mark_rule(strokeWidth=2.5).encode(y, alt.X("low:Q", title=x), alt.X2("high"), color=color)
    dot = base.mark_point(filled=True, size=70, opacity=1).encode(y, alt.X("mean:Q"), color=color)
    return Drawing(alt.layer(zero, bar, dot).properties(width=width, height={"step": 24}), drawn)


@debug_mode(False)
def ordered_bars(shares: Mapping[str, Sequence[float]], names: Sequence[str], *, width: int = 400) -> Drawing:
    """A bar of length 1 for each label, divided into the shares of up to five ordered ``names``."""
    rows = [
        {"label": label, "name": name, "share": share, "place": place}
        for label, row in shares.items()
        for place, (name, share) in enumerate(zip(names, row, strict=True))
        if math.isfinite(share)
    ]
    colors = alt.Scale(domain=list(names), range=[f"var(--s{i + 1})" for i in range(len(names))])
    chart, drawn = _chart(rows, width, {"step": 24})
    room = 6.5 * max(map(len, shares), default=0)  # pixels: the reader's font may be wider than the renderer's
    return Drawing(
        chart.mark_bar(height={"band": 0.75}).encode(
            alt.X("share:Q", title=None, axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1])),
            alt.Y("label:N", sort=None, title=None, axis=alt.Axis(labelLimit=200, minExtent=room)),
            alt.Color("name:N", scale=colors, legend=alt.Legend(columns=len(names))),
            alt.Order("place:Q"),
        ),
        drawn,
    )


def svg(drawing: Drawing) -> Markup:
    """The chart as SVG for a page that has ``chart.css``. Text of the data is escaped by the renderer."""
    with debug_mode(False):  # the specification is ours; checking it takes longer than drawing it
        specification = drawing.chart.to_dict(validate=False)
    text = vl_convert.vegalite_to_svg(specification | {"datasets": drawing.rows}, config=_CONFIG)
    text = text.replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "", 1)  # nothing in it is a link
    # What is said to screen readers is shown under the pointer, too.
    return Markup(
        re.sub(r'<line( aria-label="([^"]*)"[^>]*?)(?:/>|></line>)', r"<line\1><title>\2</title></line>", text)
    )


def save(path: str | Path, *drawings: Drawing, columns: int = 1) -> Path:
    """Writes charts, each with its title, as one standalone SVG. A browser shows it in the reader's light or dark mode;
    programs that know no variables of CSS (file managers, LaTeX) show the light colours."""
    chart = alt.concat(*(drawing.chart for drawing in drawings), columns=columns, padding=16)
    rows = {name: rows for drawing in drawings for name, rows in drawing.rows.items()}
    text = str(svg(Drawing(chart.resolve_scale(color="independent"), rows)))
    ground = '><rect width="100%" height="100%" rx="10" fill="var(--surface)"/>'
    return write_file(Path(path), with_plain_colors(text.replace(">", ground, 1)) + "\n")


def with_plain_colors(text: str) -> str:
    """An SVG whose attributes hold the light colours; a rule for each replaces it in dark mode."""
    style = (ASSETS / "chart.css").read_text(encoding="utf-8")
    light, dark = (dict(re.findall(r"(--\w[\w-]*): (#\w+);", part)) for part in style.split("@media", 1))
    names = sorted({name for name in re.findall(r"var\((--[\w-]+)\)", text)}, key=len, reverse=True)
    for name in names:
        text = text.replace(f"var({name})", light[name])
    rules = [
        f'[{attribute}="{light[name]}"] {{ {attribute}: {dark[name]}; }}'
        for name in names
        for attribute in ("fill", "stroke")
        if f'{attribute}="{light[name]}"' in text
    ]
    fonts = next(line for line in style.splitlines() if line.startswith("svg text"))
    return text.replace(">", f"><style>{fonts}\n@media (prefers-color-scheme: dark) {{ {' '.join(rules)} }}</style>", 1)


def number(value: float, unit: str = "") -> str:
    """A number of at most four significant digits: 31.2%, 0.31, 1,250, 2.5e-06."""
    if unit == "share":
        return f"{100 * value:.3g}%"
    size = abs(value)
    return (
        f"{value:.2g}" if size and (size < 1e-3 or size >= 1e7) else f"{value:,.0f}" if size >= 1000 else f"{value:.4g}"
    )


def _finite(value: Value) -> bool:
    return value is not None and math.isfinite(value)


def _rows(line: Line) -> list[dict[str, Any]]:
    """What is drawn of a line, at most ``POINTS`` rows."""
    if line.low:
        kept = range(len(line.x))[:: -(-len(line.x) // POINTS) or 1]
        rows = [
            {"x": line.x[i], "y": line.y[i], "low": line.low[i], "high": line.high[i], "kind": "measured"} for i in kept
        ]
    else:
        rows = _stretches(line)
    dotted = bool(line.low) or len(rows) < _DOTTED
    for place, row in enumerate(rows):
        alone = all(neighbour["y"] is None for neighbour in rows[max(0, place - 1) : place + 2] if neighbour is not row)
        row |= {"line": line.label, "dot": (dotted or alone) and row["y"] is not None}
    return rows


def _stretches(line: Line) -> list[dict[str, Any]]:
    x, y = np.asarray(line.x, np.float64), np.array([v if _finite(v) else np.nan for v in line.y], np.float64)
    rows: list[dict[str, Any]] = []
    for part in np.array_split(np.arange(len(x)), min(len(x), POINTS)) if len(x) else []:
        known = y[part][np.isfinite(y[part])]
        mean, low, high = (float(f(known)) if known.size else None for f in (np.mean, np.min, np.max))
        rows.append({"x": float(x[part].mean()), "y": mean, "raw": mean, "low": low, "high": high})
    for row in rows:
        row["kind"] = "plain" if line.exact or len(x) < SMOOTH_FROM else "raw" if len(x) <= POINTS else "stretch"
    if not line.exact and len(x) >= SMOOTH_FROM:
        half = max(1, len(rows) // 40)
        for place, row in enumerate(rows):
            near = [r["raw"] for r in rows[max(0, place - half) : place + half + 1] if r["raw"] is not None]
            row["y"] = None if row["raw"] is None else sum(near) / len(near)
    return rows


def _colors(lines: Sequence[tuple[str, int]], **legend: float) -> alt.Color:
    scale = alt.Scale(domain=[label for label, _ in lines], range=[f"var(--c{color})" for _, color in lines])
    return alt.Color("line:N", scale=scale, legend=alt.Legend(**legend) if len(lines) > 1 else None)


def _hovers(lines: Sequence[Line], rows: Sequence[dict[str, Any]], x: str, unit: str) -> list[dict[str, Any]]:
    """What to say at each x, at most ``_HOVERS`` of them."""
    measured = {line.label for line in lines if line.low}
    texts: dict[float, list[str]] = {}
    for row in rows:
        around = f" [{number(row['low'], unit)}, {number(row['high'], unit)}]" if row["line"] in measured else ""
        if row["y"] is not None:
            texts.setdefault(row["x"], []).append(f"{row['line']}: {number(row['y'], unit)}{around}")
    said = [{"x": at, "text": " · ".join([f"{x} {number(at)}", *text])} for at, text in sorted(texts.items())]
    return said[:: -(-len(said) // _HOVERS) or 1]


def _chart(
    rows: list[dict[str, Any]], width: Any = alt.Undefined, height: Any = alt.Undefined
) -> tuple[alt.Chart, Any]:
    name = next(_NAMES)
    return alt.Chart(alt.NamedData(name), width=width, height=height), {name: rows}
