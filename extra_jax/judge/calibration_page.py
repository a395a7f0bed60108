"""``calibration.html``: one page on how far a judge can be trusted; opens offline, no script."""

from collections.abc import Mapping, Sequence
from html import escape
from math import isnan
from typing import Any

from extra_jax.judge.metrics import LEVELS, THRESHOLD
from extra_jax.telemetry.page_style import PAGE_STYLE
from extra_jax.telemetry.svg import Series, line_chart, stacked_bar

_METRICS = (
    ("misplacement", "Misplacement", "Mean of the two rates below; 50 % is a coin."),
    ("false_negative_rate", "False negatives", f"Correct rollouts scored below {THRESHOLD:g}."),
    ("false_positive_rate", "False positives", f"Wrong rollouts scored {THRESHOLD:g} or more."),
    ("pooled_misplacement", "Pooled misplacement", "Misplaced rollouts of all."),
    ("auroc", "AUROC", "A correct rollout outscores a wrong one."),
    ("within_prompt_auroc", "AUROC within a prompt", "The same among rollouts of one problem: what GRPO uses."),
    ("prompts_with_signal", "Prompts with signal", "Problems whose rollouts get different scores."),
    ("parsed", "With a score", "Rollouts for which a valid score came back."),
)
_MEANING = {
    "ref": "sees the reference",
    "noref": "sees no reference",
    "wrongref": "sees another problem's reference",
    "injected": "the trace asks for a 5",
    "again": "as ref, asked again",
}


def calibration_page(folder: str, judges: Sequence[Mapping[str, Any]]) -> str:
    """The page."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>calibration · {escape(folder)}</title><style>{PAGE_STYLE}</style></head>\n"
        f"<body><main><header><h1>Judge calibration · {escape(folder)}</h1></header>"
        f"{''.join(_judge(judge) for judge in judges)}</main></body></html>\n"
    )


def _judge(judge: Mapping[str, Any]) -> str:
    conditions = judge["conditions"]
    first = next(iter(conditions.values()))
    facts = (
        f"{judge['rollouts']:,} rollouts of {first['problems']:,} problems, {first['correct']:,} correct and "
        f"{first['wrong']:,} wrong by the verifier"
    )
    if judge["without_verdict"]:
        facts += f"; {judge['without_verdict']:,} without a verdict are left out"
    missing = ""
    if judge["missing"]:
        names = ", ".join(judge["missing"])
        missing = f'<p class="muted small">Not scored: {names}. extra-jax judge DIR ... condition=NAME adds one.</p>'
    return (
        f'<h2>{escape(judge["name"])}</h2><p class="verdict">{escape(_verdict(conditions))}</p>'
        f'<p class="change">{facts}</p>{missing}'
        f'<div class="card" style="margin-top:18px">{_table(conditions)}</div>'
        f'<div class="two" style="margin-top:16px"><div class="card"><h3>Reliability</h3>'
        f'<p class="muted small">Share of rollouts with a score that are correct.</p>{_reliability(conditions)}'
        f"{_counts(conditions)}</div>"
        f'<div class="card"><h3>Scores by class</h3><p class="muted small">From 1 (left) to 5 (right).</p>'
        f"{_shares(conditions)}</div></div>"
        f'<div class="card" style="margin-top:16px">{_further(conditions, judge["changes"])}</div>'
    )


def _verdict(conditions: Mapping[str, Any]) -> str:
    """What the conditions say together, in a few sentences."""
    errors = {name: c["metrics"]["misplacement"] for name, c in conditions.items()}
    if "ref" not in errors or isnan(errors["ref"]["value"]):
        return "Without scores under `ref` and rollouts of both classes there is nothing to compare."
    ref = errors["ref"]
    sentence = f"It misplaces {ref['value']:.1%} of the rollouts [{ref['low']:.1%}, {ref['high']:.1%}]."
    if "injected" in conditions:
        asked, plain = (conditions[name]["metrics"]["false_positive_rate"] for name in ("injected", "ref"))
        if asked["low"] > plain["high"]:
            sentence += (
                f" It obeys its traces: where they ask for a 5, {asked['value']:.0%} of the wrong ones count as "
                f"correct instead of {plain['value']:.0%}."
            )
    others = [errors[name] for name in ("noref", "wrongref") if name in errors]
    if ref["high"] >= 0.5:
        return sentence + " That is no better than a coin."
    if not others:
        return sentence
    if all(ref["high"] < other["low"] for other in others):
        return sentence + " It does use the reference: without the right one it is clearly worse."
    if all(abs(other["value"] - ref["value"]) < ref["high"] - ref["low"] for other in others):
        return sentence + " It is about as good without the right reference, so it hardly uses it."
    return sentence


def _table(conditions: Mapping[str, Any]) -> str:
    head = "".join(f'<th class="n">{name}<br>{_MEANING[name]}</th>' for name in conditions)
    rows = []
    for key, label, meaning in _METRICS:
        cells = "".join(f'<td class="n">{_cell(c["metrics"][key])}</td>' for c in conditions.values())
        rows.append(f'<tr><td>{label}</td><td class="muted small">{meaning}</td>{cells}</tr>')
    return f"<table><tr><th>Metric</th><th></th>{head}</tr>{''.join(rows)}</table>"


def _cell(metric: Mapping[str, float]) -> str:
    if isnan(metric["value"]):
        return "undefined"
    return f'{metric["value"]:.3f} <span class="iv">[{metric["low"]:.3f}, {metric["high"]:.3f}]</span>'


def _reliability(conditions: Mapping[str, Any]) -> str:
    series = [
        Series(name, LEVELS, [p["correct"] for p in c["reliability"]], color=i, points=True)
        for i, (name, c) in enumerate(conditions.items())
    ]
    return line_chart(series, description="share correct by score", x_label="judge's score", unit="share", width=520)


def _counts(conditions: Mapping[str, Any]) -> str:
    rows = ""
    for name, condition in conditions.items():
        cells = "".join(f'<td class="n">{point["count"]:,}</td>' for point in condition["reliability"])
        rows += f"<tr><td>{name}</td>{cells}</tr>"
    head = "".join(f'<th class="n">{level}</th>' for level in LEVELS)
    return f"<table><tr><th>Rollouts with score</th>{head}</tr>{rows}</table>"


def _shares(conditions: Mapping[str, Any]) -> str:
    bars = []
    for name, condition in conditions.items():
        for label, shares in condition["score_shares"].items():
            known = [0.0 if isnan(share) else share for share in shares]
            parts = [(f"score {level}", share, level - 1) for level, share in zip(LEVELS, known, strict=True)]
            text = ", ".join(f"{level}: {share:.0%}" for level, share in zip(LEVELS, known, strict=True))
            bar = stacked_bar(parts, description=f"{name}, {label}: {text}", width=520)
            bars.append(f'<p class="small" style="margin-top:10px">{name}, {label} · {text}</p>{bar}')
    return "".join(bars)


def _further(conditions: Mapping[str, Any], changes: Mapping[str, Any]) -> str:
    head = "".join(f'<th class="n">{name}</th>' for name in conditions)
    rows = []
    for key, label in (("all", "all rollouts"), ("correct", "correct ones"), ("wrong", "wrong ones")):
        cells = "".join(f'<td class="n">{_number(c["length_bias"][key])}</td>' for c in conditions.values())
        rows.append(f"<tr><td>Rank correlation of score and length, {label}</td>{cells}</tr>")
    flat = "".join(f'<td class="n">{_number(c["steps_without_change"])}</td>' for c in conditions.values())
    rows.append(f"<tr><td>Neighbouring segments with equal scores</td>{flat}</tr>")
    for key, label in (("equal", "Share of scores equal to those under ref"), ("mean", "Mean change from ref, points")):
        cells = "".join(
            f'<td class="n">{_number(changes[name][key]) if name in changes else ""}</td>' for name in conditions
        )
        rows.append(f"<tr><td>{label}</td>{cells}</tr>")
    for status in next(iter(conditions.values()))["statuses"]:
        cells = "".join(f'<td class="n">{c["statuses"][status]:,}</td>' for c in conditions.values())
        rows.append(f"<tr><td>Units that ended as {status}</td>{cells}</tr>")
    return f"<table><tr><th></th>{head}</tr>{''.join(rows)}</table>"


def _number(value: float) -> str:
    return "undefined" if isnan(value) else f"{value:.3f}"
