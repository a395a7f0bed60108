"""The table and the curves of the arms, from raw CSV.

    python -m benchmarks.exprl.report --runs runs/exprl_evidence    # collects finished seeds first
    python -m benchmarks.exprl.report                               # from the CSV that is here
    python -m benchmarks.exprl.report --data benchmarks/exprl/ten --runs runs/exprl_ten

Raw data in ``--data``, by default beside this file: scores.csv (arm, seed, stage, problem, samples, correct; stage 0 is
the untouched base) and steps.csv (arm, seed, stage, step, metric, value). Made from them: results.md, results.svg.

Held-out problems are the same for all runs. Intervals are from a hierarchical bootstrap, 10,000 times: seeds are drawn,
then problems, both the same for all arms. The last step is compared, never the best.
"""

import argparse
import csv
from collections import defaultdict
from pathlib import Path

import numpy as np

from benchmarks.exprl.run import ARMS, run_dir
from extra_jax.telemetry import charts
from extra_jax.telemetry.evaluations import read_evaluations
from extra_jax.telemetry.metrics import read_metrics
from extra_jax.telemetry.statistics import hierarchical_draws, pass_at_k, quantile_interval, sign_flip_p

HERE = Path(__file__).parent
KS = (1, 16)
SPARSE = "sparse_grpo"
# Of the training batches; a run of the verb `sft` has none of the first five.
METRICS = (
    "pass_rate",
    "groups/frac_all_wrong",
    "groups/frac_mixed",
    "num_tokens",
    "judge/gap",
    "judge/auroc",
    "distill/reverse_kl",
    "entropy",
    "loss",
    "grad_norm",
    "step_time",
)
PAIRS = (
    ("outcome", SPARSE),
    ("process", SPARSE),
    ("outcome", "process"),
    ("outcome", "outcome_lenient"),
    ("outcome_lenient", "outcome_noisy"),
)
# Five colours a chart.
PANELS = {
    "ExpRL": ("outcome", "process", SPARSE, "sft", "base"),
    "other arms": ("outcome_lenient", "outcome_noisy", "process_noisy", "self_distillation", "base"),
}
LABELS = {
    "outcome_lenient": "lenient",
    "outcome_noisy": "noisy",
    "process_noisy": "proc. noisy",
    SPARSE: "sparse",
    "self_distillation": "self-dist.",
}

Scores = dict[tuple[str, int, int], np.ndarray]
"""(arm, seed, stage) -> ``[P, 2]`` samples and correct of each problem, in one order; stage 0 is that of the base."""

Steps = dict[tuple[str, int, int, str], dict[int, float]]
"""(arm, seed, stage, metric) -> step -> value."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="what run.py wrote, collected into CSV first")
    parser.add_argument("--data", type=Path, default=HERE, help="folder of the CSV files")
    args = parser.parse_args()
    if args.runs is not None:
        collect(args.runs, args.data)
    scores, steps = read_scores(args.data / "scores.csv"), read_steps(args.data / "steps.csv")
    (args.data / "results.md").write_text(report(scores, steps))
    draw(scores, steps, args.data / "results.svg")
    print((args.data / "results.md").read_text())


def collect(runs: Path, data: Path) -> None:
    """Adds finished runs to the CSV files, or replaces them there; what is not finished is named and left out."""
    seeds = sorted({int(path.name.rpartition("_seed")[2]) for path in runs.glob("*_seed*")})
    found = [(arm, seed) for seed in seeds for arm in ARMS if run_dir(runs, arm, seed, 2).exists()]
    finished = [run for run in found if (run_dir(runs, *run, 2) / "report.html").exists()]
    for arm, seed in set(found) - set(finished):
        print(f"seed {seed}, {arm}: not finished, left out")
    scores, steps = [], []
    for arm, seed in finished:
        stage1 = ARMS[arm]
        ((before, after),) = read_evaluations(run_dir(runs, arm, seed, 2)).values()
        for stage, evaluation in ((0 if stage1 is None else 1, before), (2, after)):
            for uid, row in zip(evaluation["uids"], evaluation["correct"], strict=True):
                scores.append([arm, seed, stage, uid, len(row), sum(row)])
        for stage in (1, 2) if stage1 else (2,):
            for row in read_metrics(run_dir(runs, arm, seed, stage)):
                for name in METRICS:
                    if row.get(name) is not None:
                        steps.append([arm, seed, stage, row["step"], name, f"{row[name]:.6g}"])
    data.mkdir(parents=True, exist_ok=True)
    replace(data / "scores.csv", ["arm", "seed", "stage", "problem", "samples", "correct"], scores)
    replace(data / "steps.csv", ["arm", "seed", "stage", "step", "metric", "value"], steps)


def replace(path: Path, header: list[str], rows: list[list]) -> None:
    """Rows of other runs (arm, seed) stay in the file; all are ordered by seed, then as ``ARMS`` has them."""
    new = {(row[0], str(row[1])) for row in rows}
    if path.exists():
        with path.open(newline="") as file:
            rows = [*(row for row in list(csv.reader(file))[1:] if (row[0], row[1]) not in new), *rows]
    order = list(ARMS)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(sorted(rows, key=lambda row: (int(row[1]), order.index(row[0]))))


def read_scores(path: Path) -> Scores:
    found: dict[tuple[str, int, int], list] = defaultdict(list)
    with path.open() as file:
        for row in csv.DictReader(file):
            key = (row["arm"], int(row["seed"]), int(row["stage"]))
            found[key].append((row["problem"], int(row["samples"]), int(row["correct"])))
    return {key: np.array([cells[1:] for cells in sorted(rows)]) for key, rows in found.items()}


def read_steps(path: Path) -> Steps:
    found: Steps = defaultdict(dict)
    with path.open() as file:
        for row in csv.DictReader(file):
            key = (row["arm"], int(row["seed"]), int(row["stage"]), row["metric"])
            found[key][int(row["step"])] = float(row["value"])
    return found


def matrix(scores: Scores, arm: str, stage: int, k: int, seeds: list[int] | None = None) -> np.ndarray:
    """``[S, P]`` pass@k of each problem, by default of all seeds of the arm."""
    if arm == "base" and stage == 1:
        stage = 0
    return np.array([pass_at_k(*scores[arm, seed, stage].T, k) for seed in seeds or seeds_of(scores, arm)])


def seeds_of(scores: Scores, *arms: str) -> list[int]:
    """The seeds that all these arms have."""
    return sorted(set.intersection(*({seed for arm, seed, _ in scores if arm == wanted} for wanted in arms)))


def interval(values: np.ndarray) -> str:
    """Mean of ``values [S, P]`` in percent with its interval."""
    low, high = quantile_interval(hierarchical_draws([values])[:, 0])
    return f"{100 * values.mean():.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def report(scores: Scores, steps: Steps) -> str:
    arms = [arm for arm in ARMS if seeds_of(scores, arm)]
    problems, samples = len(first := next(iter(scores.values()))), first[0, 0]
    lines = [
        f"{problems} held-out problems x {samples} samples. Percent; brackets are 95 % intervals over seeds and "
        "problems, with one seed over problems only.",
        "",
        "| arm | seeds | after stage 1: pass@1 | pass@16 | after stage 2: pass@1 | pass@16 | 1,000 tokens in 1, 2 |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm in arms:
        seeds = seeds_of(scores, arm)
        cells = [interval(matrix(scores, arm, stage, k)) for stage in (1, 2) for k in KS]
        tokens = [f"{value / 1000:.0f}" if (value := tokens_of(steps, arm, seeds, stage)) else "-" for stage in (1, 2)]
        lines.append(f"| {arm} | {len(seeds)} | {' | '.join(cells)} | {', '.join(tokens)} |")
    for stage in (1, 2):
        for k in KS:
            lines += ["", f"Differences in pass@{k} after stage {stage}:", ""]
            lines += ["| comparison | mean, over seeds and problems | each seed | p over seeds |", "|---|---|---|---|"]
            against = [(arm, "base") for arm in arms if arm != "base"]
            for arm, other in (*against, *PAIRS):
                if not (seeds := seeds_of(scores, arm, other)):
                    continue
                difference = matrix(scores, arm, stage, k, seeds) - matrix(scores, other, stage, k, seeds)
                by_seed = difference.mean(axis=1)
                p = f"{sign_flip_p(by_seed):.2f}" if len(seeds) > 1 else ""
                each = ", ".join(f"{100 * x:+.1f}" for x in by_seed)
                lines.append(f"| {arm} - {other} | {interval(difference)} | {each} | {p} |")
    lines += ["", *training(scores, steps, arms)]
    return "\n".join(lines) + "\n"


def tokens_of(steps: Steps, arm: str, seeds: list[int], stage: int) -> float:
    """Tokens of prompts and completions of one run, mean over seeds; 0 where they are not counted."""
    return float(np.mean([max(steps[arm, seed, stage, "num_tokens"].values(), default=0) for seed in seeds]))


def training(scores: Scores, steps: Steps, arms: list[str]) -> list[str]:
    """What the batches looked like: first and last four steps of each run, means over seeds."""
    lines = ["Training batches, first and last four steps, means over seeds:", ""]
    lines += [
        "| arm, stage | verified correct | groups all wrong | groups mixed | judge AUROC |",
        "|---|---|---|---|---|",
    ]
    for stage in (1, 2):
        for arm in arms:
            cells, seeds = [], seeds_of(scores, arm)
            for name in ("pass_rate", "groups/frac_all_wrong", "groups/frac_mixed", "judge/auroc"):
                if name == "judge/auroc" and (ARMS[arm] is None or ARMS[arm].judge is None):
                    cells.append("")
                    continue
                series = [list(steps[arm, seed, stage, name].values()) for seed in seeds]
                ends = [np.nanmean([s[:4] for s in series]), np.nanmean([s[-4:] for s in series])] if series[0] else []
                cells.append(" to ".join(f"{x:.2f}" for x in ends))
            if cells[0]:
                lines.append(f"| {arm}, {stage} | {' | '.join(cells)} |")
    return lines


def draw(scores: Scores, steps: Steps, path: Path) -> None:
    """Held-out pass@k by stage, and verified correctness of the training batches by step; a column a panel."""
    drawings = []
    panels = {title: arms for title, arms in PANELS.items() if any(seeds_of(scores, a) for a in arms if a != "base")}
    for k in KS:
        for title, arms in panels.items():
            series = []
            for color, arm in enumerate(arms):
                if not seeds_of(scores, arm):
                    continue
                values = [matrix(scores, *point, k) for point in (("base", 0), (arm, 1), (arm, 2))]
                low, high = zip(*(quantile_interval(hierarchical_draws([v])[:, 0]) for v in values), strict=True)
                at = [stage + 0.03 * color for stage in (0, 1, 2)]  # intervals side by side
                means = [float(v.mean()) for v in values]
                series.append(charts.Line(LABELS.get(arm, arm), at, means, color, low, high))
            drawings.append(chart(f"Held-out pass@{k}, {title}", series, "after stage (0: before)", (0, 1, 2)))
    for stage in (1, 2):
        for title, arms in panels.items():
            series = []
            for color, arm in enumerate(arms):
                runs = [steps[arm, seed, stage, "pass_rate"] for seed in seeds_of(scores, arm)]
                if runs and all(runs):
                    means = [float(np.mean([run[x] for run in runs])) for x in sorted(runs[0])]
                    series.append(charts.Line(LABELS.get(arm, arm), sorted(runs[0]), means, color, exact=True))
            drawings.append(chart(f"Correct in the batches of stage {stage}, {title}", series, "step"))
    charts.save(path, *drawings, columns=2)


def chart(title: str, lines: list[charts.Line], x: str, ticks: tuple[float, ...] = ()) -> charts.Drawing:
    return charts.line_chart(lines, x=x, unit="share", ticks=ticks).titled(title)


if __name__ == "__main__":
    main()
