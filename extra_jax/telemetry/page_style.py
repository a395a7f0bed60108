"""The look of the report and of standalone charts: one palette, light and dark, no external file."""

_LIGHT = """
  --page: #f6f7f9; --surface: #ffffff; --ink: #16202c; --muted: #5d6b7a; --grid: #e7ebf0; --axis: #b6c0cb;
  --line: #dfe4ea; --c0: #2463d8; --c1: #d07a10; --c2: #12906a; --c3: #8a3fd1; --c4: #8391a1;
  --good: #0f7a52; --good-soft: #e3f4ec; --bad: #b3382c; --bad-soft: #fbe9e7; --soft: #eef1f5;
"""

_DARK = """
  --page: #10151b; --surface: #181f27; --ink: #e6ebf1; --muted: #96a4b3; --grid: #27313c; --axis: #4a5866;
  --line: #2a3440; --c0: #6ba3ff; --c1: #f0a54a; --c2: #43cf9c; --c3: #c08cf8; --c4: #8798aa;
  --good: #5ed8a6; --good-soft: #17352b; --bad: #ff9285; --bad-soft: #3d2322; --soft: #212a34;
"""

VARIABLES = f":root {{{_LIGHT}}}\n@media (prefers-color-scheme: dark) {{ :root {{{_DARK}}} }}\n"

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'

CHART_STYLE = (
    f"svg {{ font-family: {FONT}; }}\n"
    + """
.grid { stroke: var(--grid); stroke-width: 1; }
.axis { stroke: var(--axis); stroke-width: 1; }
.tick { fill: var(--muted); font-size: 11px; font-variant-numeric: tabular-nums; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.line.faint { stroke-width: 1; opacity: 0.38; }
.bar { stroke-width: 2; opacity: 0.45; }
.dot { stroke: var(--surface); stroke-width: 1.2; }
.area { opacity: 0.82; stroke: none; }
.end { font-size: 12.5px; font-weight: 600; }
.last { font-weight: 400; fill: var(--muted); font-size: 12px; }
.title { fill: var(--ink); font-size: 14.5px; font-weight: 650; }
.note { fill: var(--muted); font-size: 11.5px; }
.hover { fill: var(--ink); opacity: 0; }
.hover:hover { opacity: 0.07; }
"""
    + "".join(
        f".line.c{i}, .bar.c{i} {{ stroke: var(--c{i}); }}\n"
        f".dot.c{i}, .area.c{i}, .fill.c{i}, .end.t{i} {{ fill: var(--c{i}); }}\n"
        for i in range(5)
    )
)

PAGE_STYLE = (
    VARIABLES
    + CHART_STYLE
    + f"body {{ font: 15px/1.5 {FONT}; }}\n"
    + """
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); }
main { max-width: 1240px; margin: 0 auto; padding: 36px 28px 60px; }
h1 { font-size: 15px; font-weight: 600; color: var(--muted); margin: 0 0 10px; letter-spacing: 0.01em; }
h2 { font-size: 20px; margin: 44px 0 4px; }
h3 { font-size: 14px; margin: 0; font-weight: 650; }
p { margin: 4px 0; }
code, pre { font-family: ui-monospace, "SF Mono", "Cascadia Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.verdict { font-size: 24px; line-height: 1.36; font-weight: 600; margin: 0 0 6px; text-wrap: pretty; }
.change { font-size: 16px; color: var(--muted); margin: 0; }
.muted { color: var(--muted); } .small { font-size: 13px; }
.lead { color: var(--muted); max-width: 62em; margin-bottom: 14px; font-size: 14px; }
.card { background: var(--surface); border: 1px solid var(--line); border-radius: 10px; padding: 16px 18px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 14px; margin-top: 24px; }
.tile .value { font-size: 25px; font-weight: 650; font-variant-numeric: tabular-nums; margin-top: 2px; }
.tile .value .from { color: var(--muted); font-weight: 450; font-size: 19px; }
.two { display: grid; grid-template-columns: 1.3fr 1fr; gap: 16px; align-items: start; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(350px, 1fr)); gap: 16px; }
.panel p { color: var(--muted); font-size: 12.5px; line-height: 1.4; min-height: 2.8em; margin: 2px 0 8px; }
svg.chart { width: 100%; height: auto; display: block; overflow: visible; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 14px; }
th { text-align: left; font-weight: 600; color: var(--muted); font-size: 12.5px; }
th, td { padding: 7px 10px 7px 0; border-bottom: 1px solid var(--line); vertical-align: baseline; }
tr:last-child td { border-bottom: none; }
td.n, th.n { text-align: right; padding-right: 4px; padding-left: 14px; white-space: nowrap; }
td:first-child { white-space: nowrap; }
td .iv { color: var(--muted); font-size: 12.5px; margin-left: 3px; }
.up { color: var(--good); } .down { color: var(--bad); }
.swatch { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 7px; }
.swatch.c0 { background: var(--c0); } .swatch.c1 { background: var(--c1); } .swatch.c2 { background: var(--c2); }
.swatch.c3 { background: var(--c3); } .swatch.c4 { background: var(--c4); }
.badge { display: inline-block; border-radius: 5px; padding: 1px 7px; font-size: 12px; font-weight: 600; }
.badge.good { color: var(--good); background: var(--good-soft); }
.badge.bad { color: var(--bad); background: var(--bad-soft); }
.example { margin-bottom: 16px; }
.sides { display: grid; grid-template-columns: 1fr 1fr; gap: 16px; margin-top: 12px; }
.sides.one { grid-template-columns: 1fr; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 12.5px; line-height: 1.5; margin: 8px 0 0;
  background: var(--soft); border-radius: 7px; padding: 10px 12px; max-height: 340px; overflow: auto; }
pre.prompt { background: none; border-left: 3px solid var(--line); border-radius: 0; padding: 2px 12px;
  max-height: 200px; }
details { margin-top: 12px; } summary { cursor: pointer; font-weight: 600; }
footer { margin-top: 40px; color: var(--muted); font-size: 13px; }
@media (max-width: 820px) { .two, .sides { grid-template-columns: 1fr; } main { padding: 20px 14px; } }
@media print { .card { break-inside: avoid; } pre { max-height: none; } body { background: #fff; } }
"""
)
