"""``calibration.html``: one page on how far a judge can be trusted; opens offline, without a script."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from extra_jax.judge.metrics import LEVELS, THRESHOLD
from extra_jax.telemetry import charts
from extra_jax.telemetry.page import render
from extra_jax.telemetry.statistics import wilson_interval

_METRICS = {
    "misplacement": ("Misplacement", "Mean of the two rates below; 50 % is a coin."),
    "false_negative_rate": ("False negatives", f"Correct rollouts scored below {THRESHOLD:g}."),
    "false_positive_rate": ("False positives", f"Wrong rollouts scored {THRESHOLD:g} or more."),
    "pooled_misplacement": ("Pooled misplacement", "Misplaced rollouts of all."),
    "auroc": ("AUROC", "A correct rollout outscores a wrong one."),
    "within_prompt_auroc": ("AUROC within a prompt", "The same among rollouts of one problem: what GRPO uses."),
    "prompts_with_signal": ("Prompts with signal", "Problems whose rollouts get different scores."),
    "parsed": ("With a score", "Rollouts for which a valid score came back."),
}
_MEANING = {
    "ref": "sees the reference",
    "noref": "sees no reference",
    "wrongref": "sees another problem's reference",
    "injected": "the trace asks for a 5",
    "again": "as ref, asked again",
}


def calibration_page(folder: str, judges: Sequence[Mapping[str, Any]]) -> str:
    """The page."""
    shown = [
        {
            **judge,
            "first": next(iter(judge["conditions"].values())),
            "verdict": _verdict(judge["conditions"]),
            "reliability": charts.svg(_reliability(judge["conditions"])),
            "shares": charts.svg(_shares(judge["conditions"])),
        }
        for judge in judges
    ]
    return render(
        "calibration.html",
        title=f"calibration · {folder}",
        folder=folder,
        judges=shown,
        levels=LEVELS,
        metrics=_METRICS,
        meaning=_MEANING,
        finite=isfinite,
    )


def _verdict(conditions: Mapping[str, Any]) -> str:
    """What the conditions say together, in a few sentences."""
    errors = {name: c["metrics"]["misplacement"] for name, c in conditions.items()}
    if "ref" not in errors or not isfinite(errors["ref"]["value"]):
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
    if ref["low"] <= 0.5 <= ref["high"]:
        judged = conditions["ref"]
        few = "correct" if judged["correct"] <= judged["wrong"] else "wrong"
        return f"{sentence} It cannot be told from a coin with {judged[few]:,} {few} rollouts."
    if ref["low"] > 0.5:
        return sentence + " That is worse than a coin."
    if not others:
        return sentence + " Whether it uses the reference cannot be said without `noref` or `wrongref`."
    if all(ref["high"] < other["low"] for other in others):
        return sentence + " It does use the reference: without the right one it is clearly worse."
    if all(abs(other["value"] - ref["value"]) < ref["high"] - ref["low"] for other in others):
        return sentence + " It is about as good without the right reference, so it hardly uses it."
    return sentence


def _reliability(conditions: Mapping[str, Any]) -> charts.Drawing:
    """Share of correct rollouts at each score; conditions stand side by side, so that their intervals can be seen."""
    lines = []
    for color, (name, condition) in enumerate(conditions.items()):
        points = [point for point in condition["reliability"] if point["count"]]
        ends = [wilson_interval(round(p["correct"] * p["count"]), p["count"]) for p in points]
        at = [p["score"] + 0.04 * (color - (len(conditions) - 1) / 2) for p in points]
        low, high = zip(*ends, strict=True) if ends else ((), ())
        lines.append(charts.Line(name, at, [p["correct"] for p in points], color, low, high))
    return charts.line_chart(lines, x="judge's score", unit="share", width=420, height=210)


def _shares(conditions: Mapping[str, Any]) -> charts.Drawing:
    shares = {
        f"{name}, {kind}": row
        for name, condition in conditions.items()
        for kind, row in condition["score_shares"].items()
    }
    return charts.ordered_bars(shares, [f"score {level}" for level in LEVELS])
