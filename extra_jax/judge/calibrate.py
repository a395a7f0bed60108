"""The ``calibrate`` verb: is the judge worth training on? Compares its scores with verified verdicts.

One judge is looked at under up to five conditions on the same rollouts: ``ref`` (it sees the reference), ``noref`` and
``wrongref`` (it sees that of another problem). A judge that uses the reference errs least under ``ref`` and worst under
``wrongref``; three equal numbers mean that it ignores the reference; about 50 % misplacement means that it knows
nothing. Under ``injected`` every trace asks for the highest score: false positives show who obeys. Under ``again`` it
is asked as under ``ref`` a second time: how far the two agree is how far it agrees with itself.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from etils import epath

from extra_jax.errors import ExtraError
from extra_jax.files import write_file
from extra_jax.judge import metrics, store
from extra_jax.judge.calibration_page import calibration_page
from extra_jax.judge.join import STATUSES, Joined, join_scores
from extra_jax.reward.verdict import Verdict

REPORT, NUMBERS = "calibration.html", "calibration.json"
CONDITIONS = ("ref", "noref", "wrongref", "injected", "again")

_LABELS = {Verdict.CORRECT: True, Verdict.WRONG: False, Verdict.NO_ANSWER: False}
_COLUMNS = ("rollout_id", "uid", "text_sha", "segment_tokens", "verdict")


@dataclass(frozen=True)
class Calibration:
    """What was found and where it was written.

    Attributes:
        judges: One entry a judge: ``name``, ``conditions`` (condition -> numbers), ``missing`` (conditions not scored),
            ``changes`` (condition -> how its scores differ from those under ``ref``).
    """

    judges: list[dict[str, Any]]
    report: epath.Path

    def __str__(self) -> str:
        lines = []
        for judge in self.judges:
            lines.append(judge["name"])
            for condition, numbers in judge["conditions"].items():
                shown = ("misplacement", "auroc", "within_prompt_auroc", "parsed")
                values = "  ".join(f"{name} {_interval(numbers['metrics'][name])}" for name in shown)
                lines.append(f"  {condition:<9}{values}")
            if again := judge["changes"].get("again"):
                lines.append(f"  asked twice: {again['equal']:.1%} of the scores are equal")
            if judge["missing"]:
                lines.append(f"  not scored: {', '.join(judge['missing'])} (extra-jax judge DIR ... condition=NAME)")
        return "\n".join([*lines, f"report: {self.report}"])


def calibrate(folder: epath.PathLike) -> Calibration:
    """Compares every judge in a store with the verdicts and writes ``calibration.html`` and ``calibration.json`` there.

    Raises:
        ExtraError: no rollouts, no scores, or no rollout with a verdict that says anything.
    """
    rows = [row for shard in store.rollout_parts(folder) for row in shard.read(_COLUMNS)]
    labelled = [row for row in rows if row["verdict"] in _LABELS]
    if not labelled:
        raise ExtraError(f"{folder}: no rollout has a verdict of correct, wrong or no_answer to compare scores with")
    cards = store.judges(folder)
    if not cards:
        raise ExtraError(f"{folder}: no scores; `extra-jax judge {folder} endpoint=URL model=NAME` writes some")
    families: dict[str, dict[str, dict[str, Any]]] = {}
    scores: dict[tuple[str, str], np.ndarray] = {}
    for name, card in cards.items():
        joined = join_scores(labelled, store.score_rows(folder, name), whole=card.get("unit", "rollout") == "rollout")
        family, condition = _family(name, card), str(card.get("condition", "ref"))
        families.setdefault(family, {})[condition] = {"judge": name, **_numbers(labelled, joined)}
        scores[family, condition] = _last(joined)
    judges = [
        {
            "name": name,
            "rollouts": len(labelled),
            "without_verdict": len(rows) - len(labelled),
            "conditions": {c: conditions[c] for c in CONDITIONS if c in conditions},
            "missing": [c for c in CONDITIONS if c not in conditions],
            "changes": {
                c: metrics.change(scores[name, "ref"], scores[name, c])
                for c in CONDITIONS[1:]
                if c in conditions and "ref" in conditions
            },
        }
        for name, conditions in families.items()
    ]
    root = epath.Path(folder)
    numbers = json.dumps(metrics.finite(judges), indent=1, allow_nan=False)
    write_file(root / NUMBERS, numbers + "\n")
    report = write_file(root / REPORT, calibration_page(str(folder), judges))
    return Calibration(judges, report)


def _family(name: str, card: Mapping[str, Any]) -> str:
    """What the judges that differ in their condition only have in common."""
    usual = {"scoring": "text", "samples": 1, "temperature": 0.0, "max_tokens": 2048, "extra_body": {}}
    if not {"model", "asked_for", *usual} <= card.keys():  # written by somebody else
        return name
    further = [f"{key}={card[key]}" for key in usual if card[key] != usual[key]]
    return ", ".join([f"{card['model']}, {card['asked_for']}", *further])


def _numbers(rows: Sequence[Mapping[str, Any]], joined: Joined) -> dict[str, Any]:
    """Everything about one judge under one condition; a trace counts by the score of its last unit."""
    judged = metrics.Judged(
        problem=metrics.first_seen_index([row["uid"] for row in rows]),
        correct=np.array([_LABELS[row["verdict"]] for row in rows], bool),
        score=_last(joined),
        length=np.array([row["segment_tokens"][-1] for row in rows], np.float64),
    )
    return {
        "metrics": metrics.calibration(judged),
        "reliability": metrics.reliability(judged),
        "score_shares": metrics.score_shares(judged),
        "length_bias": metrics.length_bias(judged),
        "problems": int(judged.problem.max()) + 1,
        "correct": int(judged.correct.sum()),
        "wrong": int((~judged.correct).sum()),
        "units": dict(joined.counts),
        "statuses": {name: joined.counts[name] for name in STATUSES},
        "steps_without_change": _flat_steps(joined.scores),
    }


def _last(joined: Joined) -> np.ndarray:
    """``[R]`` scores of the last units."""
    return np.array([scores[-1] for scores in joined.scores])


def _flat_steps(scores: Sequence[np.ndarray]) -> float:
    """Share of neighbouring segments with equal scores: steps about which a process judge says nothing."""
    steps = np.concatenate([np.diff(s) for s in scores]) if scores else np.zeros(0)
    known = steps[~np.isnan(steps)]
    return float((known == 0).mean()) if known.size else float("nan")


def _interval(metric: Mapping[str, float]) -> str:
    if not np.isfinite(metric["value"]):
        return "undefined"
    return f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]"
