"""Charts as SVG text: axes with ticks and units, lines, intervals, stacked areas. No script, no external font.

Colours are CSS variables (``--ink``, ``--muted``, ``--grid``, ``--c0`` ...), so the page or the standalone file decides
on light and dark. Values of ``None`` or NaN break a line instead of being drawn as something.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TypeGuard

MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 46.0, 12.0, 24.0, 30.0
_HOVER_BINS = 160

Value = float | None


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
        label: For the legend and the tooltip.
        x: Ascending.
        y: Same length; ``None`` or NaN is a gap.
        color: Index of the colour variable, ``--c0`` to ``--c4``.
        low: Lower ends of intervals, same length as ``y``, or empty.
        high: Upper ends.
        points: Draw a dot at each value.
        faint: Draw thin and pale (the raw values under a moving average); not in the legend, not in tooltips.
    """

    label: str
    x: Sequence[float]
    y: Sequence[Value]
    color: int = 0
    low: Sequence[Value] = field(default_factory=tuple)
    high: Sequence[Value] = field(default_factory=tuple)
    points: bool = False
    faint: bool = False


@dataclass(frozen=True)
class Frame:
    """The plotting area and its two scales. Sizes are SVG user units (pixels at natural size)."""

    width: float
    height: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    right: float = MARGIN_RIGHT
    log2_x: bool = False

    def x(self, value: float) -> float:
        low, high = (self._log(v) for v in self.x_range)
        share = 0.5 if high == low else (self._log(value) - low) / (high - low)
        return MARGIN_LEFT + share * (self.width - MARGIN_LEFT - self.right)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return self.height - MARGIN_BOTTOM - (value - low) / (high - low) * (self.height - MARGIN_TOP - MARGIN_BOTTOM)

    def _log(self, value: float) -> float:
        return math.log2(value) if self.log2_x else value


def line_chart(
    series: Sequence[Series],
    *,
    description: str,
    x_label: str = "step",
    unit: str = "",
    width: float = 380,
    height: float = 210,
    from_zero: bool = True,
    log2_x: bool = False,
    end_labels: float = 0.0,
) -> str:
    """Lines over a common axis.

    Args:
        series: At least one with a finite value; otherwise the chart says that there is no data.
        description: For screen readers.
        x_label: Under the axis.
        unit: Above the y axis; ``"share"`` draws percentages.
        width: SVG user units.
        height: SVG user units.
        from_zero: The y axis includes 0; otherwise it fits the data.
        log2_x: Logarithmic x axis with a tick at each power of two (pass@k).
        end_labels: Room at the right to name each line at its end; 0 draws a legend instead.
    """
    xs = [x for s in series for x, y in zip(s.x, s.y, strict=True) if _finite(y)]
    ys = [v for s in series for v in (*s.y, *s.low, *s.high) if _finite(v)]
    if not xs:
        return _empty(width, height, description)
    ticks = nice_ticks(*_padded(min(ys), max(ys), from_zero))
    frame = Frame(width, height, (min(xs), max(xs)), (ticks[0], ticks[-1]), end_labels or MARGIN_RIGHT, log2_x)
    form = percent if unit == "share" else number
    body = [_y_axis(frame, ticks, form, "" if unit == "share" else unit), _x_axis(frame, x_label)]
    body += [_draw(frame, s) for s in series]
    named = [s for s in series if not s.faint]
    if end_labels:
        body.append(_end_labels(frame, named, form))
    elif len(named) > 1:
        body.append(_legend(frame, [(s.label, s.color) for s in named]))
    body.append(_hover(frame, named, form, x_label))
    return _svg(width, height, description, body)


def stacked_shares(
    x: Sequence[float],
    parts: Sequence[tuple[str, Sequence[Value], int]],
    *,
    description: str,
    width: float = 380,
    height: float = 210,
) -> str:
    """Shares that add up to 1, stacked from the bottom; ``parts`` are ``(label, shares over x, colour index)``."""
    keep = [i for i in range(len(x)) if all(_finite(shares[i]) for _, shares, _ in parts)]
    if not keep:
        return _empty(width, height, description)
    xs = [x[i] for i in keep]
    frame = Frame(width, height, (min(xs), max(xs)), (0.0, 1.0))
    body, floor = [_y_axis(frame, [0.0, 0.25, 0.5, 0.75, 1.0], percent, "")], [0.0] * len(keep)
    for _, shares, color in parts:
        kept = [share for i in keep if _finite(share := shares[i])]
        top = [below + share for below, share in zip(floor, kept, strict=True)]
        upper = [f"{frame.x(a):.1f},{frame.y(min(b, 1.0)):.1f}" for a, b in zip(xs, top, strict=True)]
        lower = [f"{frame.x(a):.1f},{frame.y(min(b, 1.0)):.1f}" for a, b in zip(xs, floor, strict=True)]
        body.append(f'<polygon class="area c{color}" points="{" ".join(upper + lower[::-1])}"/>')
        floor = top
    body += [_x_axis(frame, "step"), _legend(frame, [(label, color) for label, _, color in parts])]
    named = [Series(label, xs, [shares[i] for i in keep], color) for label, shares, color in parts]
    body.append(_hover(frame, named, percent, "step"))
    return _svg(width, height, description, body)


def stacked_bar(parts: Sequence[tuple[str, float, int]], *, description: str, width: float = 1160) -> str:
    """One horizontal bar of ``(label, amount, colour index)``, widths in proportion; labels belong in a table below."""
    total, left, body, height = sum(amount for _, amount, _ in parts), 0.0, [], 26.0
    for label, amount, color in parts:
        share = amount / total if total > 0 else 0.0
        place = f'x="{left:.1f}" y="0" width="{max(share * width - 1.5, 0.5):.1f}" height="{height:g}"'
        body.append(f'<rect class="fill c{color}" {place}><title>{escape(label)}: {share:.0%}</title></rect>')
        left += share * width
    return _svg(width, height, description, body, stretch=True)


def moving_average(values: Sequence[Value], window: int) -> list[Value]:
    """Centred mean over ``window`` neighbours (fewer at the ends); gaps are skipped, not filled."""
    half, smooth = window // 2, []
    for i, value in enumerate(values):
        near = [v for v in values[max(0, i - half) : i + half + 1] if _finite(v)]
        smooth.append(sum(near) / len(near) if near and _finite(value) else None)
    return smooth


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round values (1, 2, 2.5 or 5 times a power of ten apart) that cover ``[low, high]`` in about ``count`` steps."""
    if high - low <= max(1e-9 * max(abs(low), abs(high)), 1e-300):
        high = low + (abs(low) if abs(low) > 1e-290 else 1.0)
    rough = (high - low) / count
    scale = 10.0 ** math.floor(math.log10(rough))
    step = scale * next(m for m in (1, 2, 2.5, 5, 10) if rough <= m * scale * (1 + 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def number(value: float) -> str:
    """A number of at most four significant digits for axes and tables: 0.31, 1,250, 2.5e-06, 310k."""
    size = abs(value)
    if size and (size < 1e-3 or size >= 1e7):
        return f"{value:.2g}"
    if size >= 1e5:
        return f"{value / 1e3:,.0f}k"
    return f"{value:,.0f}" if size >= 1000 else f"{value:.4g}"


def percent(value: float) -> str:
    """A share as a percentage of three digits at most, for axes: 12.5%, 100%."""
    return f"{100 * value:.3g}%"


def _tick_labels(ticks: Sequence[float], form: Callable[[float], str]) -> list[str]:
    """Labels of one axis in one style: all in powers of ten when the largest is tiny."""
    if form is number and max(abs(t) for t in ticks) < 5e-3:
        return ["0" if t == 0 else re.sub(r"\.?0*e([+-])0*", r"e\1", f"{t:.1e}") for t in ticks]
    return [form(t) for t in ticks]


def _finite(value: Value) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _padded(low: float, high: float, from_zero: bool) -> tuple[float, float]:
    if from_zero:
        return min(low, 0.0), max(high, 0.0) or 1.0
    # At least 4 % of the value, so that noise in the last digits is not blown up to the height of the chart.
    room = max(0.06 * (high - low), 0.02 * max(abs(low), abs(high))) or 1.0
    return (0.0 if low >= 0 > low - room else low - room), high + room


def _svg(width: float, height: float, description: str, body: Sequence[str], stretch: bool = False) -> str:
    ratio = ' preserveAspectRatio="none"' if stretch else ""
    size = f' style="height:{height:g}px"' if stretch else ""
    return (
        f'<svg class="chart" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}"{ratio}{size} '
        f'role="img" aria-label="{escape(description)}">{"".join(body)}</svg>'
    )


def _empty(width: float, height: float, description: str) -> str:
    text = f'<text class="tick" x="{width / 2}" y="{height / 2}" text-anchor="middle">no data</text>'
    return _svg(width, height, description, [text])


def _y_axis(frame: Frame, ticks: Sequence[float], form: Callable[[float], str], unit: str) -> str:
    lines = []
    for tick, text in zip(ticks, _tick_labels(ticks, form), strict=True):
        y = frame.y(tick)
        kind = "axis" if tick == 0 else "grid"
        lines.append(
            f'<line class="{kind}" x1="{MARGIN_LEFT}" x2="{frame.width - frame.right:g}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        lines.append(f'<text class="tick" x="{MARGIN_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{text}</text>')
    if unit:
        lines.append(f'<text class="tick unit" x="4" y="11">{escape(unit)}</text>')
    return "".join(lines)


def _x_axis(frame: Frame, label: str) -> str:
    low, high = frame.x_range
    if frame.log2_x:
        ticks = [float(2**i) for i in range(int(math.log2(low)), int(math.log2(high)) + 1)]
    else:
        ticks = [t for t in nice_ticks(low, high, 5) if low <= t <= high and t == int(t)] or [low]
    base = frame.height - MARGIN_BOTTOM
    marks = "".join(
        f'<line class="axis" x1="{frame.x(t):.1f}" x2="{frame.x(t):.1f}" y1="{base}" y2="{base + 4}"/>'
        f'<text class="tick" x="{frame.x(t):.1f}" y="{base + 15}" text-anchor="middle">{number(t)}</text>'
        for t in ticks
    )
    middle = (MARGIN_LEFT + frame.width - frame.right) / 2
    place = f'x="{middle:.1f}" y="{frame.height - 2:g}" text-anchor="middle"'
    return f'{marks}<text class="tick unit" {place}>{escape(label)}</text>'


def _draw(frame: Frame, series: Series) -> str:
    runs: list[list[str]] = [[]]
    marks = []
    for i, (x, y) in enumerate(zip(series.x, series.y, strict=True)):
        if not _finite(y):
            runs.append([])
            continue
        px, py = frame.x(x), frame.y(y)
        runs[-1].append(f"{px:.1f},{py:.1f}")
        low, high = (series.low[i], series.high[i]) if series.low else (None, None)
        if _finite(low) and _finite(high):
            ends = f'y1="{frame.y(low):.1f}" y2="{frame.y(high):.1f}"'
            marks.append(f'<line class="bar c{series.color}" x1="{px:.1f}" x2="{px:.1f}" {ends}/>')
        if series.points:
            marks.append(f'<circle class="dot c{series.color}" cx="{px:.1f}" cy="{py:.1f}" r="3.2"/>')
    kind = "line faint" if series.faint else "line"
    lines = [f'<polyline class="{kind} c{series.color}" points="{" ".join(run)}"/>' for run in runs if len(run) > 1]
    lone = [run[0].split(",") for run in runs if len(run) == 1 and not series.points]
    dots = [f'<circle class="dot c{series.color}" cx="{x}" cy="{y}" r="2.2"/>' for x, y in lone]
    return "".join([*lines, *dots, *marks])


def _legend(frame: Frame, entries: Sequence[tuple[str, int]]) -> str:
    """Right-aligned above the plot; widths are estimated from the letters, which is good enough for short labels."""
    parts, right = [], frame.width - frame.right
    for label, color in reversed(entries):
        right -= 6.1 * len(label)
        parts.append(f'<text class="tick" x="{right:.1f}" y="11">{escape(label)}</text>')
        parts.append(f'<rect class="fill c{color}" x="{right - 13:.1f}" y="3" width="9" height="9" rx="2"/>')
        right -= 25
    return "".join(parts)


def _end_labels(frame: Frame, series: Sequence[Series], form: Callable[[float], str]) -> str:
    """Label and last value beside the end of each line, pushed apart where they would overlap."""
    ends = []
    for s in series:
        last = next((y for y in reversed(s.y) if _finite(y)), None)
        if last is not None:
            ends.append((frame.y(last), s, last))
    ends.sort(key=lambda end: end[0])
    left, floor, parts = frame.width - frame.right + 10, MARGIN_TOP - 16, []
    for y, s, last in ends:
        floor = max(y + 4, floor + 30)
        parts.append(
            f'<text class="end t{s.color}" x="{left:g}" y="{floor:.1f}">{escape(s.label)}'
            f'<tspan class="last" x="{left:g}" dy="13">{form(last)}</tspan></text>'
        )
    return "".join(parts)


def _hover(frame: Frame, series: Sequence[Series], form: Callable[[float], str], x_label: str) -> str:
    """Invisible columns whose native tooltip tells the values; CSS shows a guide line under the pointer."""
    table: dict[float, list[str]] = {}
    for s in series:
        for i, (x, y) in enumerate(zip(s.x, s.y, strict=True)):
            if _finite(y):
                low, high = (s.low[i], s.high[i]) if s.low else (None, None)
                around = f" [{form(low)}, {form(high)}]" if _finite(low) and _finite(high) else ""
                table.setdefault(x, []).append(f"{s.label}: {form(y)}{around}")
    xs = sorted(table)
    xs = xs[:: math.ceil(len(xs) / _HOVER_BINS)]
    centres = [frame.x(x) for x in xs]
    cells = []
    for i, x in enumerate(xs):
        left = MARGIN_LEFT if i == 0 else (centres[i - 1] + centres[i]) / 2
        right = frame.width - frame.right if i == len(xs) - 1 else (centres[i] + centres[i + 1]) / 2
        title = escape("\n".join([f"{x_label} {number(x)}", *table[x]]))
        cells.append(
            f'<rect class="hover" x="{left:.1f}" y="{MARGIN_TOP}" width="{max(right - left, 1):.1f}" '
            f'height="{frame.height - MARGIN_TOP - MARGIN_BOTTOM:g}"><title>{title}</title></rect>'
        )
    return "".join(cells)
