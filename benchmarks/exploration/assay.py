"""The gate and the verdicts of an assay on grids, from raw CSV.

    python -m benchmarks.exploration.assay --runs runs/grid/runs   # collects finished runs first
    python -m benchmarks.exploration.assay                         # from the CSV in assays/

Raw data: assays/scores.csv (arm, seed, step, problem; guess rate, samples, correct ones, different correct walks and
their kinds) and assays/steps.csv. Made from them: assays/results.md, assays/curves.svg, verdict.json. Seeds of 100 and
more are the pilot's, which the gate reads and no contrast does. What is asked of the gate, the contrasts and their
endpoints stand in PREREGISTRATION.md. A contrast gives the mean over seeds of the paired difference, its t interval and
the p of an exact sign flip over seeds, with Holm's correction over the primary contrasts.
"""

import argparse
import csv
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from benchmarks.exploration.lab.arms import ARMS
from benchmarks.exploration.lab.grid import Map, route
from benchmarks.exploration.runs import finished_runs, step_rows
from extra_jax.reward.verdict import Verdict
from extra_jax.telemetry import charts
from extra_jax.telemetry.evaluations import read_completions, read_evaluations
from extra_jax.telemetry.statistics import holm, pass_at_k, sign_flip_p

HERE = Path(__file__).parent
RAW = HERE / "assays"
PILOT = 100
METRICS = ("pass_rate", "groups/frac_all_wrong", "groups/frac_all_correct", "entropy", "num_tokens", "step_time")
WORDS = {
    "G0": "plain GRPO",
    "M1": "MaxRL",
    "K8": "pass@8 advantage",
    "N1": "novelty bonus",
    "N2": "the bonus, shuffled in its group",
    "P1": "prefixes of failed attempts",
    "P6": "hard prompts again, no prefix",
    "S2": "success prefixes",
    "F2": "bonus and success prefixes",
}
PRIMARY = (  # family, endpoint, a, b
    ("A", "cov_auc@16", "N1", "G0"),
    ("A", "cov_auc@16", "N1", "N2"),
    ("A", "kinds", "N1", "N2"),
    ("F2", "pass@1", "F2", "G0"),
    ("F2", "pass@16", "F2", "G0"),
)
SECONDARY = (
    ("cov_auc@16", "M1", "G0"),
    ("pass@1", "M1", "G0"),
    ("pass@16", "M1", "G0"),
    ("walks", "N1", "N2"),
    ("pass@1", "N1", "G0"),
    ("pass@16", "N1", "G0"),
    ("kinds", "N1", "G0"),
    ("pass@1", "F2", "M1"),
    ("pass@16", "F2", "M1"),
    ("kinds", "F2", "G0"),
)

Scores = dict[tuple[str, int], dict[int, np.ndarray]]
"""(arm, seed) -> step -> ``[P, 5]``: guess rate, samples, correct, walks and kinds of each problem, in one order."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="folder of ARM_seedS runs, collected into CSV first")
    runs = parser.parse_args().runs
    if runs is not None:
        collect(runs)
    scores = read_scores(RAW / "scores.csv")
    verdict = {"gate": gate(scores), "contrasts": contrasts(scores)}
    (HERE / "verdict.json").write_text(json.dumps(verdict, indent=1) + "\n")
    (RAW / "results.md").write_text(table(scores, verdict))
    draw(scores)
    print((RAW / "results.md").read_text())


def collect(runs: Path) -> None:
    """Writes the CSV files from finished runs; unfinished ones are named and left out."""
    RAW.mkdir(exist_ok=True)
    with (RAW / "scores.csv").open("w", newline="") as a, (RAW / "steps.csv").open("w", newline="") as b:
        scores, steps = csv.writer(a, lineterminator="\n"), csv.writer(b, lineterminator="\n")
        scores.writerow(["arm", "seed", "step", "problem", "guess", "samples", "correct", "walks", "kinds"])
        steps.writerow(["arm", "seed", "step", *METRICS])
        for arm, seed, run in finished_runs(runs, ARMS):
            (evaluations,) = read_evaluations(run).values()
            for evaluation in evaluations:
                walks, kinds = correct_walks(run, evaluation["step"])
                for place, uid in enumerate(evaluation["uids"]):
                    row, guess = evaluation["correct"][place], evaluation["guesser"][place]
                    counts = len(row), sum(row), len(walks[uid]), len(kinds[uid])
                    scores.writerow([arm, seed, evaluation["step"], place, f"{guess:.4g}", *counts])
            steps.writerows([arm, seed, *row] for row in step_rows(run, METRICS))


def correct_walks(run: Path, step: int) -> tuple[dict[str, set[str]], dict[str, set[tuple[int, ...]]]]:
    """By problem: the different correct walks of an evaluation, and their kinds."""
    (benchmark,) = read_evaluations(run)
    walks: dict[str, set[str]] = defaultdict(set)
    kinds: dict[str, set[tuple[int, ...]]] = defaultdict(set)
    for row in read_completions(run, benchmark, step):
        if row["verdict"] == Verdict.CORRECT and row["completion"] not in walks[row["uid"]]:
            walks[row["uid"]].add(row["completion"])
            lines = row["uid"].partition(":")[2].split("/")
            moves = row["completion"].removesuffix("\n")
            kinds[row["uid"]].add(route(Map(lines, len(moves)), moves))
    return walks, kinds


def read_scores(path: Path) -> Scores:
    rows: dict[tuple[str, int, int], list[list[float]]] = defaultdict(list)
    with path.open() as file:
        for row in csv.DictReader(file):
            cells = [float(row[name]) for name in ("guess", "samples", "correct", "walks", "kinds")]
            rows[row["arm"], int(row["seed"]), int(row["step"])].append(cells)
    scores: Scores = defaultdict(dict)
    for (arm, seed, step), cells in rows.items():
        scores[arm, seed][step] = np.array(cells)
    return dict(scores)


# --- endpoints: one number a run --------------------------------------------------------------------------------


def passed(rows: np.ndarray, k: int) -> float:
    """Mean pass@k in percent."""
    return 100 * float(np.mean(pass_at_k(rows[:, 1].astype(int), rows[:, 2].astype(int), k)))


def guessed(rows: np.ndarray, k: int) -> float:
    """Mean pass@k in percent of somebody who makes legal moves at random."""
    return 100 * float(np.mean(1 - (1 - rows[:, 0]) ** k))


def curve(run: dict[int, np.ndarray], k: int) -> np.ndarray:
    return np.array([passed(run[step], k) for step in sorted(run)])


ENDPOINTS: dict[str, Callable[[dict[int, np.ndarray]], float]] = {
    "cov_auc@16": lambda run: float(np.mean(curve(run, 16)[1:]) - curve(run, 16)[0]),
    "pass@1": lambda run: curve(run, 1)[-1],
    "pass@16": lambda run: curve(run, 16)[-1],
    "walks": lambda run: float(run[max(run)][:, 3].mean()),
    "kinds": lambda run: float(run[max(run)][:, 4].mean()),
}
"""``cov_auc@16``: mean over the evaluations of pass@16, minus that of the start; the others are of the last step."""


def runs_of_arm(scores: Scores, arm: str, pilot: bool = False) -> dict[int, dict[int, np.ndarray]]:
    return {seed: run for (a, seed), run in scores.items() if a == arm and (seed >= PILOT) == pilot}


def paired(scores: Scores, a: str, b: str, endpoint: str, pilot: bool = False) -> np.ndarray:
    """``[S]`` differences of the seeds that both arms have."""
    first, second = runs_of_arm(scores, a, pilot), runs_of_arm(scores, b, pilot)
    return np.array(
        [ENDPOINTS[endpoint](first[s]) - ENDPOINTS[endpoint](second[s]) for s in sorted({*first} & {*second})]
    )


# --- the gate ---------------------------------------------------------------------------------------------------


def gate(scores: Scores) -> list[dict[str, Any]]:
    """What the pilot (two seeds of G0 and M1) must show before an assay may be used: number, bound, passed."""
    plain = runs_of_arm(scores, "G0", pilot=True)
    if not plain:
        return []
    base = next(iter(plain.values()))[0]
    curves16 = np.array([curve(run, 16) for run in plain.values()]).mean(axis=0)
    curves1 = np.array([curve(run, 1) for run in plain.values()]).mean(axis=0)
    # two evaluations each, because a single one is noisy
    late = curves1[-2:].mean() - curves1[-4:-2].mean()
    gained = curves1[-1] - curves1[0]
    dead = np.mean((1 - base[:, 2] / base[:, 1]) ** 32)
    lead = paired(scores, "M1", "G0", "cov_auc@16", pilot=True)
    error = lead.std(ddof=1) / np.sqrt(len(lead)) if len(lead) > 1 else np.nan
    rows = [
        ("a guesser's pass@16 / the base's", guessed(base, 16) / passed(base, 16), "<= 0.5", lambda x: x <= 0.5),
        ("base pass@1, %", passed(base, 1), "3 to 15", lambda x: 3 <= x <= 15),
        ("base pass@64 / pass@1", passed(base, 64) / passed(base, 1), ">= 2.5", lambda x: x >= 2.5),
        ("groups of 32 all wrong before step 1", dead, "<= 0.5", lambda x: x <= 0.5),
        ("gain of pass@1 over the last two evaluations / whole gain", late / gained, "<= 0.1", lambda x: x <= 0.1),
        ("pass@16 of G0: own highest - last, points", curves16.max() - curves16[-1], ">= 5", lambda x: x >= 5),
        (
            "coverage M1 - G0, in paired standard errors",
            lead.mean() / error if len(lead) else np.nan,
            "> 2",
            lambda x: x > 2,
        ),
    ]
    return [
        # a single seed has no standard error: what was not seen has not passed
        {
            "what": what,
            "seen": round(float(seen), 4) if np.isfinite(seen) else None,
            "asked": asked,
            "passed": bool(holds(seen)),
        }
        for what, seen, asked, holds in rows
    ]


# --- contrasts --------------------------------------------------------------------------------------------------


def contrasts(scores: Scores) -> list[dict[str, Any]]:
    rows = [contrast(scores, *named) for named in PRIMARY]
    rows += [contrast(scores, "secondary", *named) for named in SECONDARY]
    rows = [row for row in rows if row is not None]
    primary = [row for row in rows if row["assay"] != "secondary"]
    for row, p in zip(primary, holm([row["p"] for row in primary]), strict=True):
        row["p_holm"] = round(p, 4)
        row["verdict"] = "not supported" if p >= 0.05 else "supported" if row["mean"] > 0 else "contradicted"
    return rows


def contrast(scores: Scores, assay: str, endpoint: str, a: str, b: str) -> dict[str, Any] | None:
    values = paired(scores, a, b, endpoint)
    if len(values) < 2:
        return None
    half = float(student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    numbers = {
        "mean": values.mean(),
        "low": values.mean() - half,
        "high": values.mean() + half,
        "p": sign_flip_p(values),
    }
    row = {"assay": assay, "endpoint": endpoint, "a": a, "b": b, "seeds": len(values)}
    return row | {name: round(float(value), 4) for name, value in numbers.items()}


# --- words and pictures -----------------------------------------------------------------------------------------


def table(scores: Scores, verdict: dict[str, Any]) -> str:
    lines = ["## Gate (pilot)", "", "| what | seen | asked | |", "|---|---|---|---|"]
    for row in verdict["gate"]:
        seen = "not known" if row["seen"] is None else f"{row['seen']:.3g}"
        lines.append(f"| {row['what']} | {seen} | {row['asked']} | {'passed' if row['passed'] else '**failed**'} |")
    for pilot, title in ((True, "Pilot"), (False, "Confirmatory runs")):
        arms = [arm for arm in ARMS if runs_of_arm(scores, arm, pilot)]
        if not arms:
            continue
        lines += ["", f"## {title}", "", "Means over seeds; last evaluation, but for cov_auc@16.", ""]
        lines += [
            f"| arm | seeds | {' | '.join(ENDPOINTS)} | a guesser: pass@1, @16 |",
            "|---" * (len(ENDPOINTS) + 3) + "|",
        ]
        for arm in arms:
            runs = runs_of_arm(scores, arm, pilot)
            cells = [f"{np.mean([measure(run) for run in runs.values()]):.2f}" for measure in ENDPOINTS.values()]
            rows = next(iter(runs.values()))[0]
            name, guesses = WORDS.get(arm, arm), f"{guessed(rows, 1):.1f}, {guessed(rows, 16):.1f}"
            lines.append(f"| {arm}: {name} | {len(runs)} | {' | '.join(cells)} | {guesses} |")
    if verdict["contrasts"]:
        lines += [
            "",
            "## Contrasts",
            "",
            "| family | endpoint | contrast | seeds | mean [95 % t] | p | after Holm | verdict |",
            "|---" * 8 + "|",
        ]
    for row in verdict["contrasts"]:
        estimate = f"{row['mean']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]"
        named = f"{row['assay']} | {row['endpoint']} | {row['a']} - {row['b']} | {row['seeds']}"
        lines.append(f"| {named} | {estimate} | {row['p']:.3f} | {row.get('p_holm', '')} | {row.get('verdict', '')} |")
    return "\n".join(lines) + "\n"


def draw(scores: Scores) -> None:
    """pass@1 and pass@16 over the run: mean over seeds with its t interval, for every arm."""
    drawings = []
    pilot = not any(seed < PILOT for _, seed in scores)
    for k in (1, 16):
        lines = []
        for color, arm in enumerate(arm for arm in ARMS if runs_of_arm(scores, arm, pilot)):
            runs = list(runs_of_arm(scores, arm, pilot).values())
            values = np.array([curve(run, k) for run in runs]) / 100
            steps = sorted(runs[0])
            half = np.zeros(len(steps))
            if len(runs) > 2:
                half = student.ppf(0.975, len(runs) - 1) * values.std(axis=0, ddof=1) / np.sqrt(len(runs))
            mean = values.mean(axis=0)
            lines.append(
                charts.Line(
                    f"{WORDS.get(arm, arm)} ({len(runs)})",
                    list(steps),
                    mean.tolist(),
                    color,
                    low=(mean - half).tolist(),
                    high=(mean + half).tolist(),
                )
            )
        drawings.append(charts.line_chart(lines, unit="share", zero=False).titled(f"Held-out pass@{k}"))
    charts.save(RAW / "curves.svg", *drawings, columns=2)


if __name__ == "__main__":
    main()
