"""The table and the curves of the arms, from raw CSV.

    python benchmarks/exploration/report.py --runs runs/exploration    # collects finished runs first
    python benchmarks/exploration/report.py                            # from the CSV that is here

Raw data beside this file: scores.csv (arm, seed, step, problem; samples, correct ones, different correct texts),
steps.csv (arm, seed, step; one column a metric). Made from them: results.md, results.svg.

Intervals are from a hierarchical bootstrap, 10,000 times: seeds are drawn, then problems, both the same for the two
arms of a difference (every run is evaluated on the same held-out problems). Those over problems alone, which leave out
what another training would have given, are shown beside them. The last step is compared, never the best.
"""

import argparse
import csv
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from lab.arms import ARMS
from runs import finished_runs, step_rows

from extra_jax.reward.verdict import Verdict
from extra_jax.telemetry import charts
from extra_jax.telemetry.evaluations import read_completions, read_evaluations
from extra_jax.telemetry.statistics import hierarchical_draws, pass_at_k, quantile_interval, sign_flip_p

HERE = Path(__file__).parent
BASELINE = "G0"
METRICS = (
    "pass_rate",
    "groups/frac_all_wrong",
    "groups/frac_all_correct",
    "entropy",
    "num_tokens",
    "timing_s/explore",
    "step_time",
    "exploration/gt_check",
    "exploration/novelty_mean",
    "exploration/novelty_within_std",
    "exploration/novelty_lexical_spearman",
    "exploration/bonus_to_advantage",
    "exploration/bonus_share_all_correct",
    "exploration/bonus_capped_share",
    "exploration/match_sum",
    "exploration/match_std",
    "exploration/hard_prompt_share",
    "exploration/hard_again_share",
    "exploration/candidates",
    "exploration/prefix_used_agreement",
    "exploration/prefix_fraction_used",
    "exploration/guided_injected",
    "exploration/guided_pass_rate",
    "exploration/guided_frac_mixed",
    "exploration/guided_source_correct",
    "exploration/guided_leak_share",
    "exploration/gain_empty_rate",
    "exploration/gain_chosen",
    "exploration/gain_matched",
    "exploration/gain_informative_empty",
    "exploration/gain_informative_chosen",
    "exploration/gain_score_spearman",
    "exploration/transfer_drawn",
    "exploration/transfer_drawn_count",
    "exploration/transfer_not_drawn",
    "exploration/transfer_not_drawn_count",
)
# family of primary comparisons (docs/methods/extra.md, section 6)
PAIRS = (("F", "G0"), ("N1", "N2"), ("N1", "L1"), ("P1", "P6"), ("P1", "P3"))

# each takes samples, correct and different correct completions ``[P]`` of every problem
MEASURES: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "pass@1": lambda samples, correct, _: 100 * pass_at_k(samples, correct, 1),
    "pass@16": lambda samples, correct, _: 100 * pass_at_k(samples, correct, 16),
    "different": lambda _samples, _correct, different: different.astype(np.float64),
}

T_95 = {3: 4.303, 6: 2.571, 12: 2.201}
"""Seeds -> 97.5 % quantile of Student's t with one degree of freedom less."""
DIGITS = {"pass@1": 1, "pass@16": 1, "different": 2}
TITLES = {"pass@1": "Held-out pass@1", "pass@16": "Held-out pass@16", "different": "Different correct texts a problem"}

WORDS = {
    "G0": "plain GRPO",
    "N1": "N1: novelty bonus",
    "N2": "N2: the bonus, shuffled in its group",
    "L1": "L1: bonus by word pairs",
    "P1": "P1: prefixes of failed attempts",
    "P3": "P3: prefixes at random",
    "P6": "P6: hard prompts again, no prefix",
    "F": "F: bonus and prefixes",
    "P1+early": "P1, early cuts only",
}
"""Arms in words; docs/methods/controls.md has them all."""

Scores = dict[tuple[str, int, int], np.ndarray]
"""(arm, seed, step) -> ``[P, 3]`` samples, correct and different correct completions of each problem, in one order."""


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
        scores.writerow(["arm", "seed", "step", "problem", "samples", "correct", "different"])
        steps.writerow(["arm", "seed", "step", *METRICS])
        for arm, seed, run in finished_runs(runs, ARMS):
            for benchmark, evaluations in read_evaluations(run).items():
                for evaluation in evaluations:
                    texts: dict[str, set[str]] = defaultdict(set)
                    for row in read_completions(run, benchmark, evaluation["step"]):
                        if row["verdict"] == Verdict.CORRECT:
                            texts[row["uid"]].add(row["completion"])
                    for uid, row in zip(evaluation["uids"], evaluation["correct"], strict=True):
                        scores.writerow([arm, seed, evaluation["step"], uid, len(row), sum(row), len(texts[uid])])
            steps.writerows([arm, seed, *row] for row in step_rows(run, METRICS))


def read_scores(path: Path) -> Scores:
    found: dict[tuple[str, int, int], list] = defaultdict(list)
    with path.open() as file:
        for row in csv.DictReader(file):
            cells = (row["problem"], *(int(row[name]) for name in ("samples", "correct", "different")))
            found[row["arm"], int(row["seed"]), int(row["step"])].append(cells)
    return {key: np.array([cells[1:] for cells in sorted(rows)]) for key, rows in found.items()}


def read_steps(path: Path) -> dict[tuple[str, int, str], dict[int, float]]:
    found: dict[tuple[str, int, str], dict[int, float]] = defaultdict(dict)
    with path.open() as file:
        for row in csv.DictReader(file):
            for name in METRICS:
                if row[name]:
                    found[row["arm"], int(row["seed"]), name][int(row["step"])] = float(row[name])
    return found


def arms_of(scores: Scores) -> list[str]:
    """Arms in the order of docs/methods/extra.md, section 5, their variants at the end."""
    found = {arm for arm, _, _ in scores}
    return [arm for arm in ARMS if arm in found] + sorted(found - set(ARMS))


def seeds_of(scores: Scores, arm: str) -> list[int]:
    return sorted({seed for a, seed, _ in scores if a == arm})


def matrix(scores: Scores, arm: str, seeds: list[int], measure: str, step: int | None = None) -> np.ndarray:
    """``[S, P]`` a measure of each problem at ``step``, by default the last one."""
    rows = []
    for seed in seeds:
        at = max(s for a, b, s in scores if (a, b) == (arm, seed)) if step is None else step
        rows.append(MEASURES[measure](*scores[arm, seed, at].T))
    return np.array(rows)


def interval(values: np.ndarray, *, seeds: bool) -> tuple[float, float]:
    """95 % interval of the mean of ``values [S, P]``: seeds are drawn where asked, and problems, the same for all."""
    return quantile_interval(hierarchical_draws([values if seeds else values.mean(axis=0, keepdims=True)])[:, 0])


def compared(scores: Scores, arm: str, other: str, measure: str) -> str | None:
    """One row: mean difference over shared seeds, both intervals, each seed's difference and p."""
    seeds = sorted({*seeds_of(scores, arm)} & {*seeds_of(scores, other)})
    if not seeds or arm == other:
        return None
    difference = matrix(scores, arm, seeds, measure) - matrix(scores, other, seeds, measure)
    whole, inner = interval(difference, seeds=True), interval(difference, seeds=False)
    digits = DIGITS[measure]
    each = ", ".join(f"{x:+.{digits}f}" for x in difference.mean(axis=1))
    mean, *ends = (f"{x:+.{digits}f}" for x in (difference.mean(), *whole, *inner))
    p = sign_flip_p(difference.mean(axis=1))
    return f"{mean} [{ends[0]}, {ends[1]}] | [{ends[2]}, {ends[3]}] | {each} | {p:.2f}"


def report(scores: Scores, steps: dict) -> str:
    arms = arms_of(scores)
    lines = [
        "pass@k in percent; `different`: different correct texts among the samples of a problem. Brackets are 95 % "
        "intervals.",
        "",
        f"| arm | seeds | {' | '.join(MEASURES)} | tokens, millions |",
        "|---" * (len(MEASURES) + 3) + "|",
    ]
    first = seeds_of(scores, BASELINE)[0]
    start = [f"{matrix(scores, BASELINE, [first], m, 0).mean():.{DIGITS[m]}f}" for m in MEASURES]
    lines.append(f"| before training | | {' | '.join(start)} | |")
    for arm in arms:
        cells = []
        for measure in MEASURES:
            values = matrix(scores, arm, seeds_of(scores, arm), measure)
            low, high = interval(values, seeds=True)
            cells.append("{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(values.mean(), low, high, d=DIGITS[measure]))
        tokens = np.mean([max(steps[arm, s, "num_tokens"].values()) for s in seeds_of(scores, arm)]) / 1e6
        lines.append(f"| {arm} | {len(seeds_of(scores, arm))} | {' | '.join(cells)} | {tokens:.2f} |")
    lines.append("")
    for measure in MEASURES:
        lines += [f"Differences in {measure}:", ""]
        lines += [
            "| comparison | mean, over seeds and problems | over problems only | each seed | p |",
            "|---|---|---|---|---|",
        ]
        wanted = [(arm, BASELINE) for arm in arms] + [pair for pair in PAIRS if pair[1] != BASELINE]
        wanted += [(arm, base) for arm in arms if "+" in arm for base in (arm.partition("+")[0], "P6")]
        for arm, other in wanted:
            cell = compared(scores, arm, other, measure) if {arm, other} <= set(arms) else None
            if cell:
                lines.append(f"| {arm} - {other} | {cell} |")
        lines += ["", spread(scores, arms, measure), ""]
    lines += diagnostics(arms, scores, steps)
    return "\n".join(lines) + "\n"


def spread(scores: Scores, arms: list[str], measure: str) -> str:
    """How far differences to the baseline vary from seed to seed, and what could be seen through that."""
    seeds = sorted(set.intersection(*({*seeds_of(scores, arm)} for arm in arms)))
    if len(seeds) < 2:
        return "One seed: nothing is known about the spread between seeds."
    base = matrix(scores, BASELINE, seeds, measure).mean(axis=1)
    differences = [matrix(scores, arm, seeds, measure).mean(axis=1) - base for arm in arms if arm != BASELINE]
    std = float(np.sqrt(np.mean([d.var(ddof=1) for d in differences])))
    digits = DIGITS[measure]
    halves = ", ".join(f"{std * T_95[n] / np.sqrt(n):.{digits}f} with {n} seeds" for n in T_95)
    own = base.std(ddof=1)
    return (
        f"Between seeds, {BASELINE} varies by {own:.{digits}f} (sd), a difference to it by {std:.{digits}f} (pooled "
        f"over arms). Half of a 95 % t interval of a mean difference: {halves}."
    )


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
            seeds = seeds_of(scores, arm)
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
        name: np.mean(
            [v for s in seeds_of(scores, BASELINE) for step, v in steps[BASELINE, s, name].items() if step <= 10]
        )
        for name in ("groups/frac_all_wrong", "groups/frac_all_correct")
    }
    wrong, right = early.values()
    checks = [
        value for (_, _, name), series in steps.items() if name == "exploration/gt_check" for value in series.values()
    ]
    lines += ["", f"gt_check is {min(checks):.3f} or more in all {len(checks)} steps of all runs."]
    lines += ["", f"First ten steps of {BASELINE}: {wrong:.0%} of the groups all wrong, {right:.0%} all correct.", ""]
    return lines


def explore_share(arm: str, scores: Scores, steps: dict) -> str:
    """Time in exploration over that of the step, without the first step, which compiles."""
    totals = [
        [sum(v for step, v in steps[arm, seed, name].items() if step > 1) for name in ("timing_s/explore", "step_time")]
        for seed in seeds_of(scores, arm)
    ]
    explore, whole = np.sum(totals, axis=0)
    return f"{explore / whole:.2%}"


def draw(scores: Scores) -> None:
    """A row for each arm in words, a column for each measure: the difference to the baseline with its interval."""
    arms = [arm for arm in arms_of(scores) if arm != BASELINE]
    drawings = []
    for place, (measure, title) in enumerate(TITLES.items()):
        estimates = {}
        for arm in arms:
            seeds = sorted({*seeds_of(scores, arm)} & {*seeds_of(scores, BASELINE)})
            if seeds:
                difference = matrix(scores, arm, seeds, measure) - matrix(scores, BASELINE, seeds, measure)
                ends = interval(difference, seeds=True)
                estimates[WORDS.get(arm, arm) if not place else arm] = (float(difference.mean()), *map(float, ends))
        unit = "texts" if measure == "different" else "points"
        drawings.append(charts.forest(estimates, x=f"{unit} more than plain GRPO").titled(title))
    charts.save(HERE / "results.svg", *drawings, columns=len(MEASURES))


if __name__ == "__main__":
    main()
