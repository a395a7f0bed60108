"""``report.html``: one self-contained page on a run, made from its files; opens offline, no script, no external font.

``write_report`` needs ``metrics.jsonl`` or ``evals/``; it also uses ``config.yaml``, ``run.json`` and ``rollouts/``
where they exist, and says what is missing. ``write_curve_svg`` draws the one picture for a README.
"""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from extra_jax.errors import ExtraError
from extra_jax.files import write_file
from extra_jax.telemetry import report_data as data
from extra_jax.telemetry.files import CONFIG_FILE, REPORT_FILE, RUN_FILE
from extra_jax.telemetry.names import METRICS
from extra_jax.telemetry.page_style import CHART_STYLE, PAGE_STYLE, VARIABLES
from extra_jax.telemetry.report_charts import evaluation_series, panels, pass_at_k_chart, phase_table, smooth
from extra_jax.telemetry.svg import Series, line_chart

_SHOWN_CHARACTERS = 6000


def write_report(run_dir: str | Path) -> Path:
    """Writes ``run_dir/report.html`` and returns its path.

    Raises:
        ExtraError: the directory is not that of a run, or one of its files is damaged.
    """
    run = data.load_run(run_dir)
    sections = [
        _header(run),
        _evaluation(run),
        _curves(run),
        _phases(run),
        _examples(run),
        _settings(run),
        _footer(run),
    ]
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(run.name)} · extra_jax</title><style>{PAGE_STYLE}</style></head>\n"
        f"<body><main>{''.join(sections)}</main></body></html>\n"
    )
    return write_file(run.directory / REPORT_FILE, page)


def write_curve_svg(run_dir: str | Path, path: str | Path) -> Path:
    """Draws held-out pass@1 and pass@k (dots with 95 % intervals) and the training pass rate as a standalone SVG.

    Raises:
        ExtraError: the run has neither evaluations nor a training pass rate or reward.
    """
    run = data.load_run(run_dir)
    series = [*_training_share(run), *evaluation_series(run)]
    if not series:
        raise ExtraError(f"{run.directory}: nothing to draw: no evaluation, no pass_rate or reward in the metrics")
    width, height, top = 760.0, 380.0, 58.0
    chart = line_chart(
        series,
        description=data.verdict(run)[0],
        unit="share",
        width=width - 40,
        height=height - top - 20,
        end_labels=148,
    )
    inner = chart[chart.index(">") + 1 : chart.rindex("</svg>")]
    problems = f"{run.evaluations[-1]['summary']['num_problems']:,} problems, " if run.evaluations else ""
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}">'
        f"<style>{VARIABLES}{CHART_STYLE}</style>"
        f'<rect x="0.5" y="0.5" width="{width - 1:g}" height="{height - 1:g}" rx="10" fill="var(--surface)" '
        'stroke="var(--line)"/>'
        f'<text class="title" x="22" y="30">{escape(run.name)}: share solved, by training step</text>'
        f'<text class="note" x="22" y="48">held-out: {problems}bars are 95 % intervals over problems</text>'
        f'<g transform="translate(20 {top:g})">{inner}</g></svg>\n'
    )
    return write_file(Path(path), svg)


def _training_share(run: data.RunData) -> list[Series]:
    """The training pass rate, or a reward that stays within [0, 1]; nothing where neither is a share."""
    for key, label in (("pass_rate", "training pass rate"), ("reward", "training reward")):
        x, y = run.column(key)
        known = [v for v in y if v is not None]
        if known and min(known) >= 0 and max(known) <= 1:
            return smooth(label, x, y, color=4)
    return []


def _header(run: data.RunData) -> str:
    steps = f"{run.training[-1]['step']:,} steps" if run.training else "no training step"
    clock = data.wall_clock(run)
    facts = [run.name, steps] + ([clock[0], data.span_text(clock[1])] if clock else [])
    verdicts = [[escape(text) for text in data.verdict(one)] for one in run.each_benchmark() or [run]]
    sentences = "".join(
        f'<p class="verdict">{sentence}</p><p class="change">{change}</p>' for sentence, change in verdicts
    )
    return (
        f"<header><h1>{escape(' · '.join(facts))}</h1>"
        f"{sentences}"
        f'<div class="tiles">{"".join(_tiles(run))}</div></header>'
    )


def _tiles(run: data.RunData) -> list[str]:
    tiles = []
    if run.evaluations:
        before, after = run.evaluations[0], run.evaluations[-1]
        names = data.shared_pass_names([before, after])
        for name in dict.fromkeys([*names[:1], *names[-1:]]):
            tiles.append(_tile(name, _share(before["summary"][name]["mean"]), _share(after["summary"][name]["mean"])))
        tiles.append(_tile("Mean length, tokens", _tokens(before["mean_length"]), _tokens(after["mean_length"])))
        tiles.append(_tile("Truncated", _share(before["clipped_ratio"]), _share(after["clipped_ratio"])))
    tokens = [row["num_tokens"] for row in run.training if row.get("num_tokens") is not None]
    if tokens:
        tiles.append(_tile("Tokens processed", None, f"{tokens[-1]:,.0f}"))
    return tiles


def _tile(label: str, before: str | None, after: str) -> str:
    start = f'<span class="from">{before} → </span>' if before is not None and before != after else ""
    return f'<div class="card tile"><h3 class="muted">{escape(label)}</h3><div class="value">{start}{after}</div></div>'


def _evaluation(run: data.RunData) -> str:
    if not run.evaluations:
        return (
            '<section><h2>Evaluation</h2><p class="lead">No held-out evaluation: set <code>eval.data</code> to measure '
            "pass@k before and after training. Training reward alone cannot tell learning from reward hacking.</p>"
            "</section>"
        )
    return f"<section><h2>Evaluation</h2>{''.join(map(_benchmark, run.each_benchmark()))}</section>"


def _benchmark(run: data.RunData) -> str:
    before, after = run.evaluations[0], run.evaluations[-1]
    changed = len(run.evaluations) > 1
    head = f'<th class="n">step {before["step"]:,}</th>' + (
        f'<th class="n">step {after["step"]:,}</th><th class="n">change</th>' if changed else ""
    )
    names = [*data.shared_pass_names([before, after]), *data.majority_names([before, after])]
    rows = [_pass_row(before, after, name, changed) for name in names]
    rows.append(_plain_row("Mean length, tokens", before["mean_length"], after["mean_length"], changed, _tokens))
    rows.append(_plain_row("Truncated", before["clipped_ratio"], after["clipped_ratio"], changed, _share))
    unjudged = data.unjudged_share(before), data.unjudged_share(after)
    if any(unjudged):
        rows.append(_plain_row("Not judged, counted as not solved", *unjudged, changed, _share))
    title = f"<h3>{escape(run.benchmark)}</h3>" if len(run.benchmarks) > 1 else ""
    return (
        f'{title}<p class="lead">{escape(_provenance(after))}</p>'
        f'<div class="two"><div class="card"><table><tr><th></th>{head}</tr>{"".join(rows)}</table>'
        '<p class="small muted">Brackets: 95 % bootstrap intervals over problems (2,000 resamples); changes are '
        "paired by problem. They cover the draw of problems, not another seed of training. The last step is shown, "
        f"not the best.{_width_note(before, after)}</p></div>{pass_at_k_chart(run)}</div>"
    )


def _width_note(*evaluations: dict[str, Any]) -> str:
    values = [e["summary"][name] for e in evaluations for name in data.pass_names(e)]
    if all(value["low"] < value["high"] for value in values):
        return ""
    return " An interval without width means that all problems agreed, not that the value is certain."


def _provenance(evaluation: dict[str, Any]) -> str:
    summary = evaluation["summary"]
    sampling = ", ".join(
        f"{key} {value}" for key, value in evaluation.get("sampling", {}).items() if value not in (None, [])
    )
    parts = [
        f"{summary['num_problems']:,} held-out problems"
        + (f" of {evaluation['source']}" if evaluation.get("source") else ""),
        f"{summary['num_generations']} samples each",
        sampling,
        f"graded by {evaluation['grader']}" if evaluation.get("grader") else "",
    ]
    return " · ".join(part for part in parts if part) + ". pass@k is the unbiased estimate 1 − C(n−c, k) / C(n, k)."


def _pass_row(before: dict[str, Any], after: dict[str, Any], name: str, changed: bool) -> str:
    cells = _interval_cell(before["summary"][name])
    if changed:
        change = data.difference(before, after, name)
        cells += _interval_cell(after["summary"][name])
        cells += '<td class="n muted">not paired</td>' if change is None else _interval_cell(change, sign=True)
    return f"<tr><td>{name}</td>{cells}</tr>"


def _interval_cell(value: dict[str, float], sign: bool = False) -> str:
    mean, _, interval = data.interval_text(value, sign).partition(" ")
    kind = "" if not sign or value["low"] <= 0 <= value["high"] else " up" if value["mean"] > 0 else " down"
    return f'<td class="n{kind}">{mean} <span class="iv">{interval}</span></td>'


def _plain_row(label: str, before: float, after: float, changed: bool, form: Any) -> str:
    cells = f'<td class="n">{form(before)}</td>'
    if changed:
        sign = "+" if after >= before else "−"
        cells += f'<td class="n">{form(after)}</td><td class="n">{sign}{form(abs(after - before))}</td>'
    return f"<tr><td>{label}</td>{cells}</tr>"


def _tokens(value: float) -> str:
    return f"{value:,.1f}"


def _share(value: float) -> str:
    return f"{100 * value:.1f}%"


def _curves(run: data.RunData) -> str:
    drawn = panels(run)
    if not drawn:
        return ""
    return (
        '<section><h2>Training</h2><p class="lead">One point per step. Where there are two lines of a colour, the pale '
        "one is the raw value and the strong one its centred moving average. Hold the pointer over a chart to read "
        "its values.</p>"
        f'<div class="panels">{"".join(drawn)}</div></section>'
    )


def _phases(run: data.RunData) -> str:
    table = phase_table(run)
    return f"<section><h2>Where the time went</h2>{table}</section>" if table else ""


def _examples(run: data.RunData) -> str:
    examples, how = data.choose_examples(run)
    cards = "".join(_example(run, example) for example in examples)
    return f'<section><h2>Examples</h2><p class="lead">{escape(how)}</p>{cards}</section>'


def _example(run: data.RunData, example: data.Example) -> str:
    named = [(name, row) for name, row in (("before", example.before), ("after", example.after)) if row]
    one = " one" if len(named) == 1 else ""
    sides = [_side(run, "" if one else name, row) for name, row in named]
    return (
        f'<div class="card example"><h3>{escape(example.title)}</h3><pre class="prompt">{_text(example.prompt)}</pre>'
        f'<div class="sides{one}">{"".join(sides)}</div></div>'
    )


def _side(run: data.RunData, name: str, row: dict[str, Any]) -> str:
    kind = "good" if row["verdict"] == "correct" else "bad"
    ending = {"stop_token": "finished", "length": "truncated"}.get(row["stop_reason"], row["stop_reason"])
    facts = [f"step {row['step']:,}", f"{len(row['completion_ids']):,} tokens", ending]
    if (solved := _solve_rate(run, row)) is not None:
        facts.append(solved)
    if row.get("answer") is not None:
        facts.append(f"answer {row['answer']}")
    facts = [fact.replace(" ", "\u00a0") if len(fact) < 40 else fact for fact in facts]
    return (
        f'<div><span class="badge {kind}">{escape(row["verdict"])}</span> <b>{name}</b> '
        f'<span class="small muted">{escape(" · ".join(facts))}</span><pre>{_text(row["completion"])}</pre></div>'
    )


def _solve_rate(run: data.RunData, row: dict[str, Any]) -> str | None:
    """``solved 3 of 8`` for a problem of an evaluation."""
    evaluation = next((e for e in run.evaluations if e["step"] == row["step"] and row["uid"] in e["uids"]), None)
    if evaluation is None or row.get("advantage") is not None:
        return None
    outcomes = evaluation["correct"][evaluation["uids"].index(row["uid"])]
    return f"solved {sum(outcomes)} of {len(outcomes)}"


def _text(text: str) -> str:
    if len(text) <= _SHOWN_CHARACTERS:
        return escape(text)
    return f"{escape(text[:_SHOWN_CHARACTERS])}\n… {len(text) - _SHOWN_CHARACTERS:,} further characters in the record"


def _settings(run: data.RunData) -> str:
    rows = "".join(f"<tr><td>{escape(key)}</td><td>{escape(value)}</td></tr>" for key, value in _flat(run.environment))
    environment = (
        f'<div class="card"><table>{rows}</table></div>'
        if rows
        else (f'<p class="lead">{RUN_FILE} is not in the run directory.</p>')
    )
    config = (
        f"<details><summary>Resolved configuration</summary><pre>{escape(run.config_text)}</pre></details>"
        if run.config_text
        else f'<p class="lead">{CONFIG_FILE} is not in the run directory.</p>'
    )
    known = [METRICS[key] for key in METRICS if run.has(key)]
    names = "".join(
        f"<tr><td><code>{m.key}</code></td><td>{escape(m.unit)}</td><td>{escape(m.meaning)}</td></tr>" for m in known
    )
    glossary = f"<details><summary>Metric names</summary><table>{names}</table></details>" if names else ""
    return f"<section><h2>Environment and configuration</h2>{environment}{config}{glossary}</section>"


def _flat(tree: dict[str, Any], prefix: str = "") -> Sequence[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in tree.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((name, ", ".join(map(str, value)) if isinstance(value, list) else str(value)))
    return rows


def _footer(run: data.RunData) -> str:
    lost = sum(len(row.get("nonfinite", {})) for row in run.metrics)
    warning = f"<p><b>NaN or infinite metric values: {lost}</b>; they are gaps in the charts.</p>" if lost else ""
    return (
        f"<footer>{warning}<p>Made by extra_jax from <code>metrics.jsonl</code>, <code>evals/</code> and "
        f"<code>rollouts/</code> in <code>{escape(str(run.directory))}</code>.</p></footer>"
    )
