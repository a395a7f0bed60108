"""``report.html``: one self-contained page on a run, made from its files; opens offline, without a script.

``write_report`` needs ``metrics.jsonl`` or ``evals/``; it also uses ``config.yaml``, ``run.json`` and ``rollouts/``
where they exist, and says what is missing. ``write_curve_svg`` draws the one picture for a README.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from markupsafe import Markup

from extra_jax.errors import ExtraError
from extra_jax.files import write_file
from extra_jax.telemetry import charts
from extra_jax.telemetry import report_data as data
from extra_jax.telemetry.charts import Line
from extra_jax.telemetry.files import REPORT_FILE
from extra_jax.telemetry.names import REWARD_PREFIX, VERDICT_PREFIX, phase_seconds
from extra_jax.telemetry.page import ASSETS, render

_SHOWN_CHARACTERS = 6000
_PHASE_SHARE = 0.005
_EXACT = ("learning_rate",)
_OUTCOMES = {"groups/frac_all_correct": 2, "groups/frac_mixed": 0, "groups/frac_all_wrong": 4}
_NAMES = yaml.safe_load((ASSETS / "metrics.yaml").read_text(encoding="utf-8"))


class Metric(NamedTuple):
    """What a metric tells; see ``assets/report/metrics.yaml``."""

    label: str
    unit: str
    meaning: str


METRICS = {key: Metric(*texts) for key, texts in _NAMES["metrics"].items()}


class Panel(NamedTuple):
    """A chart with a title and a note; without a chart, ``constant`` says what every step had."""

    title: str
    note: str
    chart: Markup | None
    constant: str = ""


def write_report(run_dir: str | Path) -> Path:
    """Writes ``run_dir/report.html`` and returns its path.

    Raises:
        ExtraError: the directory is not that of a run, or one of its files is damaged.
    """
    run = data.load_run(run_dir)
    benchmarks, panels = run.each_benchmark(), [*_panels(run), *_distributions(run)]
    clock = data.wall_clock(run)
    steps = f"{run.training[-1]['step']:,} steps" if run.training else "no training step"
    examples, how = data.choose_examples(run)
    page = render(
        "report.html",
        title=f"{run.name} · extra_jax",
        run=run,
        facts=[run.name, steps] + ([clock[0], data.span_text(clock[1])] if clock else []),
        verdicts=[data.verdict(one, name) for one in benchmarks for name in data.headline_names(one)]
        or [data.verdict(run)],
        tiles=[tile for one in benchmarks for tile in _tiles(one)],
        tokens=next((row["num_tokens"] for row in reversed(run.training) if row.get("num_tokens") is not None), None),
        benchmarks=[_benchmark(one) for one in benchmarks],
        panels=[panel for panel in panels if panel.chart],
        constant=[panel for panel in panels if not panel.chart],
        points=charts.POINTS,
        phases=_phases(run),
        how=how,
        examples=[_example(run, example) for example in examples],
        environment=_flat(run.environment),
        metrics={key: metric for key, metric in METRICS.items() if run.has(key)},
        lost=sum(len(row.get("nonfinite", {})) for row in run.metrics),
    )
    return write_file(run.directory / REPORT_FILE, page)


def write_curve_svg(run_dir: str | Path, path: str | Path) -> Path:
    """Draws held-out pass@1 and pass@k (dots with 95 % intervals) and the training pass rate as a standalone SVG.

    Raises:
        ExtraError: the run has neither evaluations nor a training pass rate or reward.
    """
    run = data.load_run(run_dir)
    lines = [*_evaluation_lines(run), *_training_share(run)]
    if not lines:
        raise ExtraError(f"{run.directory}: nothing to draw: no evaluation, no pass_rate or reward in the metrics")
    problems = f"{run.evaluations[-1]['summary']['num_problems']:,} problems, " if run.evaluations else ""
    title = f"{run.name}: share solved, by training step"
    return charts.save(path, curve(lines, title, f"held-out: {problems}bars are 95 % intervals over problems"))


def curve(lines: Sequence[Line], title: str, note: str) -> charts.Drawing:
    """The picture for a README."""
    return charts.line_chart(lines, unit="share", width=640, height=260).titled(title, note)


def _training_share(run: data.RunData) -> list[Line]:
    """The training pass rate, or a reward that stays within [0, 1]; nothing where neither is a share."""
    for key, label in (("pass_rate", "training pass rate"), ("reward", "training reward")):
        x, y = run.column(key)
        known = [v for v in y if v is not None]
        if known and min(known) >= 0 and max(known) <= 1:
            return [Line(label, x, y, color=4)]
    return []


def _interval_line(label: str, x: Sequence[float], values: Sequence[dict[str, float]], color: int) -> Line:
    mean, low, high = ([value[end] for value in values] for end in ("mean", "low", "high"))
    return Line(label, x, mean, color, low, high)


def _evaluation_lines(run: data.RunData) -> list[Line]:
    """pass@1 and the largest pass@k by step."""
    steps = [float(e["step"]) for e in run.evaluations]
    return [
        _interval_line(f"held-out {name}", steps, [e["summary"][name] for e in run.evaluations], color)
        for name, color in zip(data.headline_names(run), (0, 3), strict=False)
    ]


def _tiles(run: data.RunData) -> list[tuple[str, str, str]]:
    """Label, before and after."""
    before, after = run.evaluations[0], run.evaluations[-1]
    named = f", {run.benchmark}" if len(run.benchmarks) > 1 else ""
    tiles = [
        (name + named, _share(before["summary"][name]["mean"]), _share(after["summary"][name]["mean"]))
        for name in data.headline_names(run)
    ]
    for label, key, form in (("Mean length, tokens", "mean_length", _tokens), ("Truncated", "clipped_ratio", _share)):
        tiles.append((label + named, form(before[key]), form(after[key])))
    return tiles


def _benchmark(run: data.RunData) -> dict[str, Any]:
    """The table of one benchmark, before and after, and pass@k over k."""
    before, after = run.evaluations[0], run.evaluations[-1]
    ends = [before, after] if len(run.evaluations) > 1 else [after]
    rows: list[tuple[str, list[tuple[str, str, str]]]] = []
    for name in [*data.shared_pass_names(ends), *data.majority_names(ends)]:
        cells = [_interval(e["summary"][name]) for e in ends]
        if len(ends) > 1:
            change = data.difference(before, after, name)
            cells.append(("not paired", "", "muted") if change is None else _interval(change, sign=True))
        rows.append((name, cells))
    plain: list[tuple[str, list[float], Callable[[float], str]]] = [
        ("Mean length, tokens", [e["mean_length"] for e in ends], _tokens),
        ("Truncated", [e["clipped_ratio"] for e in ends], _share),
    ]
    if any(unjudged := [data.unjudged_share(e) for e in ends]):
        plain.append(("Not judged, counted as not solved", unjudged, _share))
    for label, values, form in plain:
        texts = [form(value) for value in values]
        if len(ends) > 1:
            texts.append(f"{'+' if values[1] >= values[0] else '−'}{form(abs(values[1] - values[0]))}")
        rows.append((label, [(text, "", "") for text in texts]))
    scores = [value for e in ends for key, value in e["summary"].items() if key.startswith("pass@")]
    lines = [
        _interval_line(
            f"step {e['step']:,}",
            [float(name.removeprefix("pass@")) for name in data.pass_names(e)],
            [e["summary"][name] for name in data.pass_names(e)],
            color,
        )
        for e, color in zip(ends, (4, 0) if len(ends) > 1 else (0,), strict=True)
    ]
    chart = charts.line_chart(lines, x="k, samples allowed", unit="share", powers=True, width=420, height=200)
    return {
        "name": run.benchmark if len(run.benchmarks) > 1 else "",
        "provenance": _provenance(after),
        "steps": [e["step"] for e in ends],
        "rows": rows,
        "flat": any(value["low"] == value["high"] for value in scores),
        "chart": charts.svg(chart),
    }


def _provenance(evaluation: dict[str, Any]) -> str:
    summary, source, grader = evaluation["summary"], evaluation.get("source"), evaluation.get("grader")
    sampling = evaluation.get("sampling", {}).items()
    parts = [
        f"{summary['num_problems']:,} held-out problems" + (f" of {source}" if source else ""),
        f"{summary['num_generations']} samples each",
        ", ".join(f"{key} {value}" for key, value in sampling if value not in (None, [])),
        f"graded by {grader}" if grader else "",
    ]
    return " · ".join(part for part in parts if part)


def _interval(value: dict[str, float], sign: bool = False) -> tuple[str, str, str]:
    """Mean, interval and kind of a cell."""
    mean, _, around = data.interval_text(value, sign).partition(" ")
    return mean, around, "" if not sign or value["low"] <= 0 <= value["high"] else "up" if value["mean"] > 0 else "down"


def _tokens(value: float) -> str:
    return f"{value:,.1f}"


def _share(value: float) -> str:
    return f"{100 * value:.1f}%"


def _panels(run: data.RunData) -> Iterator[Panel]:
    """One for each group of metrics that the run logged."""
    for one in run.each_benchmark():
        if len(one.evaluations) > 1:
            title = "Held-out pass@k" + (f", {one.benchmark}" if len(run.benchmarks) > 1 else "")
            chart = charts.line_chart(_evaluation_lines(one), unit="share")
            yield Panel(title, "By evaluation, with 95 % intervals over problems.", charts.svg(chart))
    for keys in _NAMES["panels"]:
        shown = [key for key in keys if run.has(key)]
        shown = [key for key in shown if key == shown[0] or run.column(key) != run.column(shown[0])]
        if shown == ["pass_rate"] and run.has("reward") and run.column("pass_rate") == run.column("reward"):
            yield Panel("Pass rate", METRICS["pass_rate"].meaning, None, "Pass rate: the reward, in every step")
        elif shown and (shown != ["loss"] or not run.has("reward")):
            main = METRICS[shown[0]]
            yield _panel(run, main.label, main.meaning, main.unit, {METRICS[key].label: key for key in shown})
        if keys == ["frac_reward_zero_std"] and all(run.has(key) for key in _OUTCOMES):
            parts = {METRICS[key].label: (*run.column(key), color) for key, color in _OUTCOMES.items()}
            note = "Prompts by what their completions got. Only mixed groups carry a signal."
            yield Panel("Groups by outcome", note, charts.svg(charts.stacked_shares(parts)))
    logged = sorted({key for row in run.training for key in row})
    parts_of_reward = [key for key in logged if re.fullmatch(rf"{REWARD_PREFIX}.+/mean", key) and run.has(key)]
    if len(parts_of_reward) > 1:  # one function is the reward
        named = {key.removeprefix(REWARD_PREFIX).removesuffix("/mean"): key for key in parts_of_reward[:5]}
        yield _panel(run, "Reward by function", "Means of what each function returned, before its weight.", "", named)
    others = [key for key in logged if key.startswith(VERDICT_PREFIX) and not key.endswith(("/correct", "/wrong"))]
    others = [key for key in others if any(run.column(key)[1])]
    if others:
        named = {key.removeprefix(VERDICT_PREFIX).replace("_", " "): key for key in others[:5]}
        yield _panel(run, "Other verdicts", "Completions that are neither correct nor wrong.", "share", named)


def _panel(run: data.RunData, title: str, note: str, unit: str, named: dict[str, str]) -> Panel:
    """A panel of metrics, label -> key; a sentence instead of a chart where none of them ever changes."""
    columns = {label: run.column(key) for label, key in named.items()}
    known = {label: [v for v in y if v is not None] for label, (_, y) in columns.items()}
    if len(run.training) > 1 and all(len(set(values)) <= 1 for values in known.values()):
        values = ", ".join(f"{label} {charts.number(each[0], unit)}" for label, each in known.items() if each)
        return Panel(title, note, None, values)
    first = next(iter(known.values())) or [0.0]
    zero = unit == "share" or min(first) < 0.5 * max(first)
    lines = [
        Line(label, x, y, color, exact=named[label] in _EXACT)
        for (label, (x, y)), color in zip(columns.items(), (0, 1, 3, 4, 2), strict=False)
    ]
    return Panel(title, note, charts.svg(charts.line_chart(lines, unit=unit, zero=zero)))


def _distributions(run: data.RunData) -> Iterator[Panel]:
    """How completions were spread, over the recorded steps."""
    records, how = data.sampled_records(run)
    for title, unit, value in (
        ("Lengths of the completions", "tokens", lambda row: len(row["completion_ids"])),
        ("Novelty of the completions", "novelty", lambda row: row.get("novelty")),
        ("Lengths of the prefixes", "share of the attempt", lambda row: row.get("prefix_fraction")),
    ):
        columns = {
            float(step): values
            for step, rows in records.items()
            if (values := [float(v) for row in rows if isinstance(v := value(row), int | float)])
        }
        if len(columns) > 1:
            note = f"The darker, the more of the step's completions; {how}"
            yield Panel(title, note, charts.svg(charts.heat_map(columns, y=unit)))


def _phases(run: data.RunData) -> dict[str, Any] | None:
    """Seconds by phase, of those that take any; the first step is apart because it compiles."""
    steps = [phases for row in run.training if (phases := phase_seconds(row))]
    if not steps:
        return None
    rest = steps[1:] or steps
    means = {
        name: sum(p.get(name, 0.0) for p in rest) / len(rest) for name in dict.fromkeys(k for p in rest for k in p)
    }
    total = sum(means.values()) or 1.0
    notes = {
        name: f"{_seconds(mean)}, {mean / total:.0%}; first step {_seconds(steps[0].get(name, 0.0))}"
        for name, mean in means.items()
        if mean / total >= _PHASE_SHARE
    }
    means = {name: means[name] for name in notes}
    first = data.span_text(sum(steps[0].values()))
    return {"chart": charts.svg(charts.bars(means, notes)), "rest": len(rest) if len(steps) > 1 else 0, "first": first}


def _seconds(value: float) -> str:
    return f"{value:,.0f} s" if value >= 100 else f"{value:.1f} s" if value >= 10 else f"{value:.2f} s"


def _example(run: data.RunData, example: data.Example) -> dict[str, Any]:
    named = [(name, row) for name, row in (("before", example.before), ("after", example.after)) if row]
    sides = [
        {
            "name": name if len(named) > 1 else "",
            "kind": "good" if row["verdict"] == "correct" else "bad",
            "verdict": row["verdict"],
            "facts": _example_facts(run, row),
            "text": _shortened(row["completion"]),
        }
        for name, row in named
    ]
    return {"title": example.title, "prompt": _shortened(example.prompt), "sides": sides}


def _example_facts(run: data.RunData, row: dict[str, Any]) -> list[str]:
    ending = {"stop_token": "finished", "length": "truncated"}.get(row["stop_reason"], row["stop_reason"])
    facts = [f"step {row['step']:,}", f"{len(row['completion_ids']):,} tokens", ending]
    for evaluation in run.evaluations:
        if (
            row.get("advantage") is None
            and evaluation["step"] == row["step"]
            and row["uid"] in evaluation.get("uids", ())
        ):
            outcomes = evaluation["correct"][evaluation["uids"].index(row["uid"])]
            facts.append(f"solved {sum(outcomes)} of {len(outcomes)}")
    if row.get("answer") is not None:
        facts.append(f"answer {row['answer']}")
    return facts


def _shortened(text: str) -> str:
    further = len(text) - _SHOWN_CHARACTERS
    return text if further <= 0 else f"{text[:_SHOWN_CHARACTERS]}\n… {further:,} further characters in the record"


def _flat(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in tree.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
            for number, one in enumerate(value, start=1):
                rows += _flat(one, f"{prefix}{key}.{number}.")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            rows.append((f"{prefix}{key}".replace("_", " "), text))
    return rows
