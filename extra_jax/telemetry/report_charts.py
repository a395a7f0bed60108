"""The charts of the report: which metrics share a panel, and how each is drawn."""

import re
from collections.abc import Mapping, Sequence
from html import escape

from extra_jax.telemetry.names import METRICS, REWARD_PREFIX, VERDICT_PREFIX, phase_seconds
from extra_jax.telemetry.report_data import RunData, pass_names, shared_pass_names, span_text
from extra_jax.telemetry.svg import Series, Value, line_chart, moving_average, stacked_bar, stacked_shares

_SMOOTH_FROM = 40
_EXACT = ("learning_rate",)
_GROUPS = (
    ("groups/frac_all_correct", 2),
    ("groups/frac_mixed", 0),
    ("groups/frac_all_wrong", 4),
)
_SINGLE_PANELS = (
    ("reward",),
    ("judge/score_correct", "judge/score_wrong"),
    ("judge/auroc",),
    ("judge/drift",),
    ("pass_rate",),
    ("frac_reward_zero_std",),
    ("completions/mean_length", "completions/mean_terminated_length"),
    ("completions/clipped_ratio",),
    ("entropy",),
    ("advantages/abs_mean",),
    ("grad_norm",),
    ("kl",),
    ("clip_ratio/region_mean",),
    ("sampling/sampling_logp_difference/mean",),
    ("sampling/sampling_logp_difference/max",),
    ("exploration/novelty_mean", "exploration/novelty_within_std"),
    ("exploration/bonus_abs_mean",),
    ("exploration/bonus_to_advantage",),
    ("exploration/hard_prompt_count", "exploration/guided_injected", "exploration/guided_queue_size"),
    ("exploration/guided_pass_rate", "exploration/regular_pass_rate"),
    ("exploration/guided_pass_rate_hard", "exploration/guided_pass_rate_easy"),
    ("exploration/prefix_level_hard", "exploration/prefix_level_easy"),
    ("exploration/transfer_drawn", "exploration/transfer_not_drawn"),
    ("tokens_per_second",),
    ("learning_rate",),
)


def smooth(label: str, x: Sequence[float], y: Sequence[Value], color: int) -> list[Series]:
    """A line, or, from 40 steps on, the raw values in pale and their moving average on top."""
    if len(x) < _SMOOTH_FROM:
        return [Series(label, x, y, color)]
    window = max(3, len(x) // 20) | 1
    return [Series(label, x, y, color, faint=True), Series(label, x, moving_average(y, window), color)]


def evaluation_series(run: RunData) -> list[Series]:
    """pass@1 and the largest pass@k by step, as dots with 95 % intervals."""
    names = shared_pass_names(run.evaluations)
    chosen = dict.fromkeys([*names[-1:], *names[:1]])
    steps = [float(e["step"]) for e in run.evaluations]
    return [
        Series(
            f"held-out {name}",
            steps,
            [e["summary"][name]["mean"] for e in run.evaluations],
            color=0 if name == names[0] else 3,
            low=[e["summary"][name]["low"] for e in run.evaluations],
            high=[e["summary"][name]["high"] for e in run.evaluations],
            points=True,
        )
        for name in chosen
    ]


def pass_at_k_chart(run: RunData) -> str:
    """pass@k over k before and after: whether training widened what the model can solve or only sharpened it."""
    chosen = (
        [(run.evaluations[0], 4), (run.evaluations[-1], 0)] if len(run.evaluations) > 1 else [(run.evaluations[0], 0)]
    )
    series = []
    for evaluation, color in chosen:
        names = pass_names(evaluation)
        values = [evaluation["summary"][name] for name in names]
        series.append(
            Series(
                f"step {evaluation['step']:,}",
                [float(name.removeprefix("pass@")) for name in names],
                [v["mean"] for v in values],
                color,
                low=[v["low"] for v in values],
                high=[v["high"] for v in values],
                points=True,
            )
        )
    chart = line_chart(
        series,
        description="pass@k over k",
        x_label="k, samples allowed",
        unit="share",
        width=480,
        height=250,
        log2_x=True,
    )
    note = (
        "A gain only at k = 1 is sharper sampling; a gain at the largest k is problems that were out of reach before."
    )
    return f'<div class="card panel"><h3>pass@k</h3><p>{note}</p>{chart}</div>'


def panels(run: RunData) -> list[str]:
    """One card per group of metrics that the run logged."""
    cards = []
    for one in run.each_benchmark():
        if len(one.evaluations) > 1:
            chart = line_chart(evaluation_series(one), description="pass@k by step", unit="share")
            title = "Held-out pass@k" + (f", {one.benchmark}" if len(run.benchmarks) > 1 else "")
            cards.append(_card(title, "By evaluation, with 95 % intervals over problems.", chart))
    for keys in _SINGLE_PANELS if run.has("reward") else (("loss",), *_SINGLE_PANELS):
        if shown := [key for key in keys if run.has(key)]:
            cards.append(_metric_panel(run, shown))
            if keys == ("frac_reward_zero_std",):
                cards += _group_panel(run)
    return cards + _reward_panel(run) + _verdict_panel(run)


def _metric_panel(run: RunData, keys: Sequence[str]) -> str:
    main = METRICS[keys[0]]
    colors = (0, 1, 3)
    series: list[Series] = []
    for key, color in zip(keys, colors, strict=False):
        label, (x, y) = METRICS[key].label, run.column(key)
        series += [Series(label, x, y, color)] if key in _EXACT else smooth(label, x, y, color)
    known = [v for v in run.column(keys[0])[1] if v is not None]
    from_zero = main.unit == "share" or min(known) < 0.5 * max(known)
    chart = line_chart(series, description=f"{main.label} by step", unit=main.unit, from_zero=from_zero)
    return _card(main.label, main.meaning, chart)


def _group_panel(run: RunData) -> list[str]:
    if not all(run.has(key) for key, _ in _GROUPS):
        return []
    steps = run.column(_GROUPS[0][0])[0]
    smoothed = max(3, len(steps) // 20) | 1 if len(steps) >= _SMOOTH_FROM else 1
    parts = [(METRICS[key].label, moving_average(run.column(key)[1], smoothed), color) for key, color in _GROUPS]
    if any(len(values) != len(steps) for _, values, _ in parts):
        return []
    chart = stacked_shares(steps, parts, description="Groups by outcome")
    return [
        _card("Groups by outcome", "Prompts by what their completions got. Only mixed groups carry a signal.", chart)
    ]


def _reward_panel(run: RunData) -> list[str]:
    keys = sorted({key for row in run.training for key in row if re.fullmatch(rf"{REWARD_PREFIX}.+/mean", key)})
    if len(keys) < 2:  # one function is the reward
        return []
    labels = {key: key.removeprefix(REWARD_PREFIX).removesuffix("/mean") for key in keys if run.has(key)}
    note = "Mean of what each reward function returned, before its weight."
    return _labelled_panel(run, labels, "Reward by function", note, "")


def _verdict_panel(run: RunData) -> list[str]:
    keys = sorted({key for row in run.training for key in row if key.startswith(VERDICT_PREFIX)})
    shown = [key for key in keys if not key.endswith(("/correct", "/wrong")) and any(run.column(key)[1])]
    labels = {key: key.removeprefix(VERDICT_PREFIX).replace("_", " ") for key in shown[:4]}
    note = f"Completions that are neither correct nor wrong: {', '.join(labels.values())}."
    return _labelled_panel(run, labels, "Other verdicts", note, "share")


def _labelled_panel(run: RunData, labels: Mapping[str, str], title: str, note: str, unit: str) -> list[str]:
    """Metrics whose names are only known from the run, label by key; the first four."""
    if not labels:
        return []
    colored = zip(labels.items(), (1, 3, 4, 2), strict=False)
    series = [line for (key, label), color in colored for line in smooth(label, *run.column(key), color)]
    return [_card(title, note, line_chart(series, description=title, unit=unit))]


def phase_table(run: RunData) -> str:
    """Seconds per phase: a bar and a table; the first step is apart because it compiles. ``""`` without timings."""
    steps = [(row, phases) for row in run.training if (phases := phase_seconds(row))]
    if not steps:
        return ""
    rest = steps[1:] or steps
    names = list(dict.fromkeys(name for _, phases in rest for name in phases))
    means = {name: sum(phases.get(name, 0.0) for _, phases in rest) / len(rest) for name in names}
    total = sum(means.values())
    parts = [(name, mean, index % 5) for index, (name, mean) in enumerate(means.items())]
    rows = "".join(
        f'<tr><td><span class="swatch c{color}"></span>{escape(name)}</td><td class="n">{_seconds(mean)}</td>'
        f'<td class="n">{mean / total if total else 0:.0%}</td>'
        f'<td class="n">{_seconds(steps[0][1].get(name, 0.0))}</td></tr>'
        for name, mean, color in parts
    )
    first = sum(steps[0][1].values())
    note = (
        f"Mean of {len(rest):,} steps after the first; the first step took {span_text(first)} as it also compiles."
        if len(steps) > 1
        else "One step only; it includes compilation."
    )
    return (
        f'<p class="lead">{note}</p><div class="card">{stacked_bar(parts, description="Seconds per phase")}'
        '<table style="margin-top:10px"><tr><th>phase</th><th class="n">mean per step</th><th class="n">share</th>'
        f'<th class="n">first step</th></tr>{rows}</table></div>'
    )


def _seconds(value: float) -> str:
    return f"{value:,.0f} s" if value >= 100 else f"{value:.1f} s" if value >= 10 else f"{value:.2f} s"


def _card(title: str, note: str, chart: str) -> str:
    return f'<div class="card panel"><h3>{escape(title)}</h3><p>{escape(note)}</p>{chart}</div>'
