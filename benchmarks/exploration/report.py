"""The table and the curves of the arms, from raw CSV.

    python benchmarks/exploration/report.py --runs runs/exploration    # collects finished runs first
    python benchmarks/exploration/report.py                            # from the CSV that is here

Raw data beside this file: scores.csv (arm, seed, step, problem, samples, correct), steps.csv (arm, seed, step, metric,
value). Made from them: results.md, results.svg.

Intervals of differences are from a hierarchical bootstrap, 10,000 times: seeds are drawn, then problems inside each (a
seed has held-out problems of its own), both the same for the two arms. Those over problems alone, which leave out what
another training would have given, are shown beside them. The last step is compared, never the best.
"""

import argparse
import csv
import itertools
from collections import defaultdict
from pathlib import Path

import numpy as np
from figures import save

from extra_jax.config.explore_presets import ARMS
from extra_jax.telemetry.evaluations import read_evaluations
from extra_jax.telemetry.metrics import read_metrics
from extra_jax.telemetry.statistics import pass_at_k
from extra_jax.telemetry.svg import Series, line_chart

HERE = Path(__file__).parent
BASELINE, KS, RESAMPLES = "G0", (1, 16), 10_000
METRICS = (
    "pass_rate",
    "groups/frac_all_wrong",
    "groups/frac_all_correct",
    "entropy",
    "num_tokens",
    "completions/mean_length",
    "timing_s/explore",
    "step_time",
    "exploration/gt_check",
    "exploration/novelty_mean",
    "exploration/novelty_within_std",
    "exploration/bonus_abs_mean",
    "exploration/bonus_to_advantage",
    "exploration/match_sum",
    "exploration/match_std",
    "exploration/hard_prompt_share",
    "exploration/guided_injected",
    "exploration/guided_pass_rate",
    "exploration/guided_frac_mixed",
    "exploration/guided_leak_share",
    "exploration/transfer_drawn",
    "exploration/transfer_drawn_count",
    "exploration/transfer_not_drawn",
    "exploration/transfer_not_drawn_count",
)
# family of primary comparisons (method/extra.md c.7)
PAIRS = (("F", "G0"), ("N1", "N2"), ("N1", "L1"), ("P1", "P6"), ("P1", "P3"))

Scores = dict[tuple[str, int, int], np.ndarray]
"""(arm, seed, step) -> ``[P, 2]`` samples and correct of each problem, in one order."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="folder of ARM_seedS runs, collected into CSV first")
    runs = parser.parse_args().runs
    if runs is not None:
        collect(runs)
    scores, steps = read_scores(HERE / "scores.csv"), read_steps(HERE / "steps.csv")
    (HERE / "results.md").write_text(report(scores, steps))
    draw(scores)
    print((HERE / "results.md").read_text())


def collect(runs: Path) -> None:
    """Writes the CSV files from finished runs; unfinished ones are named and left out."""
    with (HERE / "scores.csv").open("w", newline="") as a, (HERE / "steps.csv").open("w", newline="") as b:
        scores, steps = csv.writer(a), csv.writer(b)
        scores.writerow(["arm", "seed", "step", "problem", "samples", "correct"])
        steps.writerow(["arm", "seed", "step", "metric", "value"])
        for run in sorted(runs.glob("*_seed*")):
            arm, _, seed = run.name.partition("_seed")
            if arm not in ARMS or not (run / "report.html").exists():
                print(f"{run}: not finished, left out")
                continue
            for evaluation in itertools.chain(*read_evaluations(run).values()):
                for uid, row in zip(evaluation["uids"], evaluation["correct"], strict=True):
                    scores.writerow([arm, seed, evaluation["step"], uid, len(row), sum(row)])
            for row in read_metrics(run):
                for name in METRICS:
                    if row.get(name) is not None:
                        steps.writerow([arm, seed, row["step"], name, f"{row[name]:.6g}"])


def read_scores(path: Path) -> Scores:
    found: dict[tuple[str, int, int], list] = defaultdict(list)
    with path.open() as file:
        for row in csv.DictReader(file):
            key = (row["arm"], int(row["seed"]), int(row["step"]))
            found[key].append((row["problem"], int(row["samples"]), int(row["correct"])))
    return {key: np.array([cells[1:] for cells in sorted(rows)]) for key, rows in found.items()}


def read_steps(path: Path) -> dict[tuple[str, int, str], dict[int, float]]:
    found: dict[tuple[str, int, str], dict[int, float]] = defaultdict(dict)
    with path.open() as file:
        for row in csv.DictReader(file):
            found[row["arm"], int(row["seed"]), row["metric"]][int(row["step"])] = float(row["value"])
    return found


def matrix(scores: Scores, arm: str, seeds: list[int], k: int, step: int | None = None) -> np.ndarray:
    """``[S, P]`` pass@k of each problem at ``step``, by default the last one."""
    rows = []
    for seed in seeds:
        at = max(s for a, b, s in scores if (a, b) == (arm, seed)) if step is None else step
        rows.append(pass_at_k(*scores[arm, seed, at].T, k))
    return np.array(rows)


def bootstrap(values: np.ndarray, *, seeds: bool, rng: np.random.Generator) -> tuple[float, float]:
    """95 % interval of the mean of ``values [S, P]``: seeds are drawn where asked, then problems inside each."""
    count, problems = values.shape
    drawn = rng.integers(count, size=(RESAMPLES, count)) if seeds else np.tile(np.arange(count), (RESAMPLES, 1))
    means = np.zeros(RESAMPLES)
    for place in range(count):
        weights = rng.multinomial(problems, [1 / problems] * problems, RESAMPLES)
        means += np.sum(weights * values[drawn[:, place]], axis=1) / problems / count
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def sign_flip(differences: np.ndarray) -> float:
    """Exact two-sided p of paired seeds; the smallest attainable is ``2 / 2**S``."""
    signs = np.array(list(itertools.product((1, -1), repeat=len(differences))))
    means = np.abs(signs @ differences)
    return float(np.mean(means >= means[0] - 1e-12))


def compared(scores: Scores, arm: str, other: str, k: int) -> str | None:
    """One cell: mean difference over shared seeds, both intervals, each seed's difference and p."""
    seeds = sorted({s for a, s, _ in scores if a == arm} & {s for a, s, _ in scores if a == other})
    if not seeds or arm == other:
        return None
    difference = matrix(scores, arm, seeds, k) - matrix(scores, other, seeds, k)
    rng = np.random.default_rng(0)
    whole, inner = bootstrap(difference, seeds=True, rng=rng), bootstrap(difference, seeds=False, rng=rng)
    each = ", ".join(f"{100 * x:+.1f}" for x in difference.mean(axis=1))
    return (
        f"{100 * difference.mean():+.1f} [{100 * whole[0]:+.1f}, {100 * whole[1]:+.1f}] | "
        f"[{100 * inner[0]:+.1f}, {100 * inner[1]:+.1f}] | {each} | {sign_flip(difference.mean(axis=1)):.2f}"
    )


def report(scores: Scores, steps: dict) -> str:
    arms = [arm for arm in ARMS if any(a == arm for a, _, _ in scores)]
    lines = ["Points of pass@k in percent; brackets are 95 % intervals. See README.md for what they cover.", ""]
    lines += ["| arm | seeds | pass@1 | pass@16 | tokens, millions |", "|---|---|---|---|---|"]
    for arm in arms:
        seeds = sorted({s for a, s, _ in scores if a == arm})
        cells = []
        for k in KS:
            values = matrix(scores, arm, seeds, k)
            low, high = bootstrap(values, seeds=True, rng=np.random.default_rng(0))
            cells.append(f"{100 * values.mean():.1f} [{100 * low:.1f}, {100 * high:.1f}]")
        tokens = np.mean([max(steps[arm, s, "num_tokens"].values()) for s in seeds]) / 1e6
        lines.append(f"| {arm} | {len(seeds)} | {' | '.join(cells)} | {tokens:.2f} |")
    start = [matrix(scores, BASELINE, [s], k, 0).mean() for k in KS for s in [first_seed(scores)]]
    lines += ["", f"Before training: pass@1 {100 * start[0]:.1f}, pass@16 {100 * start[1]:.1f}.", ""]
    for k in KS:
        lines += [f"Differences in pass@{k}:", ""]
        lines += [
            "| comparison | mean, over seeds and problems | over problems only | each seed | p |",
            "|---|---|---|---|---|",
        ]
        wanted = [(arm, BASELINE) for arm in arms] + [pair for pair in PAIRS if pair[1] != BASELINE]
        for arm, other in wanted:
            cell = compared(scores, arm, other, k) if {arm, other} <= set(arms) else None
            if cell:
                lines.append(f"| {arm} - {other} | {cell} |")
        lines.append("")
    lines += diagnostics(arms, scores, steps)
    return "\n".join(lines) + "\n"


def first_seed(scores: Scores) -> int:
    return min(seed for arm, seed, _ in scores if arm == BASELINE)


def diagnostics(arms: list[str], scores: Scores, steps: dict) -> list[str]:
    """Means over the second half of training; shares of groups also over the first ten steps."""
    shown = [name for name in METRICS if name.startswith(("exploration/", "groups/")) and not name.endswith("_count")]
    lines = [
        "Means over the second half of training (transfer: weighted by the number of prompts, over all of it):",
        "",
    ]
    lines += [f"| metric | {' | '.join(arms)} |", "|---" * (len(arms) + 1) + "|"]
    for name in shown:
        cells = []
        for arm in arms:
            seeds = sorted({s for a, s, _ in scores if a == arm})
            series = [steps[arm, seed, name] for seed in seeds if steps[arm, seed, name]]
            if name.startswith("exploration/transfer"):
                pairs = [
                    (value, steps[arm, seed, f"{name}_count"][step])
                    for seed in seeds
                    for step, value in steps[arm, seed, name].items()
                ]
                total = sum(weight for _, weight in pairs)
                cells.append(f"{sum(v * w for v, w in pairs) / total:.3f} (n={total:.0f})" if total else "")
            elif series:
                late = [v for s in series for step, v in s.items() if step > max(s) / 2]
                cells.append(f"{np.mean(late):.3f}")
            else:
                cells.append("")
        lines.append(f"| {name.removeprefix('exploration/')} | {' | '.join(cells)} |")
    lines.append(f"| share of step time | {' | '.join(explore_share(arm, scores, steps) for arm in arms)} |")
    early = {
        name: np.mean([v for s in {s for a, s, _ in scores if a == BASELINE}
                       for step, v in steps[BASELINE, s, name].items() if 0 < step <= 10])
        for name in ("groups/frac_all_wrong", "groups/frac_all_correct")
    }  # fmt: skip
    wrong, right = early.values()
    lines += ["", f"First ten steps of {BASELINE}: {wrong:.0%} of the groups all wrong, {right:.0%} all correct.", ""]
    return lines


def explore_share(arm: str, scores: Scores, steps: dict) -> str:
    """Time in exploration over that of the step, without the first step, which compiles."""
    totals = [
        [sum(v for step, v in steps[arm, seed, name].items() if step > 1) for name in ("timing_s/explore", "step_time")]
        for seed in sorted({s for a, s, _ in scores if a == arm})
    ]
    explore, whole = np.sum(totals, axis=0)
    return f"{explore / whole:.2%}"


def draw(scores: Scores) -> None:
    """pass@1 and pass@16 by step, mean over seeds; at most five arms a chart."""
    arms = [arm for arm in ARMS if any(a == arm for a, _, _ in scores)]
    others = [arm for arm in arms if arm != BASELINE]
    charts = []
    for start in range(0, max(len(others), 1), 4):
        for k in KS:
            series = []
            for color, arm in enumerate([*others[start : start + 4], BASELINE]):
                seeds = sorted({s for a, s, _ in scores if a == arm})
                at = sorted(set.intersection(*({x for a, s, x in scores if (a, s) == (arm, seed)} for seed in seeds)))
                means = [float(matrix(scores, arm, seeds, k, step).mean()) for step in at]
                series.append(Series(arm, [float(x) for x in at], means, 4 if arm == BASELINE else color, points=True))
            chart = line_chart(series, description=f"pass@{k}", unit="share", from_zero=False, width=400, height=216)
            charts.append((f"Held-out pass@{k}", chart))
    save(HERE / "results.svg", charts)


if __name__ == "__main__":
    main()
