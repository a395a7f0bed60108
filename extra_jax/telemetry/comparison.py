"""Is one arm better than another? Runs compared by pairs of seeds, problem by problem (``docs/methods/extra.md`` 6).

An arm is one run per seed. The score of a problem is its pass@k; ``D[s, p]`` is the difference of the arms at seed
``s`` and problem ``p``. Two intervals are given. The *hierarchical* bootstrap draws seeds, then problems within each
benchmark, and covers another training on other problems of this kind. The bootstrap over *problems only* keeps the
trainings as they are: it answers a smaller question and is too narrow for the larger one.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, StrictInt

from extra_jax.config.yaml_tree import parse_yaml
from extra_jax.errors import ExtraError
from extra_jax.files import as_model, read_text
from extra_jax.telemetry.evaluations import read_evaluations
from extra_jax.telemetry.files import CONFIG_FILE, local_run_dir
from extra_jax.telemetry.statistics import (
    CONFIDENCE,
    DRAWS,
    hierarchical_draws,
    holm,
    pass_at_k,
    powers_of_two,
    quantile_interval,
    sign_flip_p,
)

_MUST_AGREE = ("grader", "num_generations", "problems", "seed")


@dataclass(frozen=True)
class Run:
    """One run of an arm: its directory, the step of its evaluation, its seed and its numbers by benchmark."""

    path: str
    step: int
    seed: int
    records: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Row:
    """One score on one benchmark, or its mean over all of them.

    Attributes:
        benchmark: Its name, or ``mean``.
        a: Mean of the first arm.
        b: Mean of the second arm.
        difference: ``b - a``.
        interval: 95 %, seeds and problems drawn; ``None`` with one seed per arm.
        problem_interval: 95 %, problems drawn only.
        p_seeds: Sign-flip test over seeds; ``None`` with one seed per arm.
        p_problems: Sign-flip test over problems, which takes the trainings as given.
        p_holm: ``p_seeds`` (``p_problems`` with one seed per arm) adjusted for all rows of the table.
    """

    benchmark: str
    score: str
    a: float
    b: float
    difference: float
    interval: tuple[float, float] | None
    problem_interval: tuple[float, float]
    p_seeds: float | None
    p_problems: float
    p_holm: float


@dataclass(frozen=True)
class Comparison:
    """Two arms and every row of their comparison; the first one is the primary one."""

    a: Sequence[Run]
    b: Sequence[Run]
    rows: Sequence[Row]

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        arms = {
            name: [{"run": run.path, "step": run.step, "seed": run.seed} for run in arm]
            for name, arm in (("a", self.a), ("b", self.b))
        }
        return {**arms, "draws": DRAWS, "rows": [asdict(row) for row in self.rows], "verdict": verdict(self)}


def compare(a: Sequence[str], b: Sequence[str], k: int | None = None) -> Comparison:
    """Compares the last evaluations of two arms.

    Args:
        a: Run directories, one a seed; ``RUN@STEP`` chooses an evaluation.
        b: As many, of the same seeds in any order.
        k: The pass@k beside pass@1; default: the largest power of two of the samples.

    Raises:
        ExtraError: a directory without evaluations, arms that cannot be paired, or evaluations that differ in
            problems, grader or sampling; what differs is named.
    """
    first, second = _paired([load(path) for path in a], [load(path) for path in b])
    benchmarks = list(first[0].records)
    for run in (*first[1:], *second):
        check_comparable(first[0], run)
    samples = min(record["num_generations"] for record in first[0].records.values())
    k = k or powers_of_two(samples)[-1]
    if k > samples:
        raise ExtraError(f"pass@{k} needs at least {k} samples a problem; there are {samples}")
    rows = []
    for at in dict.fromkeys((1, k)):
        scores = [[_scores(arm, name, at) for arm in (first, second)] for name in benchmarks]
        rows += _rows(benchmarks, scores, f"pass@{at}")
    adjusted = holm([row["p_problems"] if row["p_seeds"] is None else row["p_seeds"] for row in rows])
    return Comparison(first, second, [Row(**row, p_holm=p) for row, p in zip(rows, adjusted, strict=True)])


def load(path: str) -> Run:
    """The last evaluation of a run, or that of the step in ``RUN@STEP``.

    Raises:
        ExtraError: there is none.
    """
    folder, step = path, None
    if not Path(path).exists() and path.rpartition("@")[2].isdigit():
        folder, step = path.rpartition("@")[0], int(path.rpartition("@")[2])
    directory = local_run_dir(folder)
    evaluations = read_evaluations(directory)
    if not evaluations:
        raise ExtraError(f"{folder}: there are no evaluations; make one with `extra-jax eval CONFIG run.dir={folder}`")
    if step is None:
        step = max(record["step"] for records in evaluations.values() for record in records)
    records = {name: record for name, many in evaluations.items() for record in many if record["step"] == step}
    if not records:
        steps = sorted({record["step"] for many in evaluations.values() for record in many})
        raise ExtraError(f"{folder}: no evaluation of step {step}; there are {', '.join(map(str, steps))}")
    return Run(path, step, _seed(directory / CONFIG_FILE), records)


class _RunSection(BaseModel):
    seed: StrictInt = 0


class _SavedConfig(BaseModel):
    run: _RunSection = _RunSection()


def _seed(config: Path) -> int:
    tree = parse_yaml(read_text(config), str(config))
    return as_model(_SavedConfig, tree, str(config)).run.seed


def check_comparable(one: Run, other: Run) -> None:
    """Refuses evaluations that measure different things.

    Raises:
        ExtraError: names the benchmarks, problems, grader or sampling settings that differ.
    """
    unlike = []
    if only := sorted(one.records.keys() ^ other.records.keys()):
        unlike.append(f"benchmarks that only one of them has: {', '.join(only)}")
    for name in one.records.keys() & other.records.keys():
        x, y = one.records[name], other.records[name]
        for key in _MUST_AGREE:
            if x[key] != y[key]:
                unlike.append(f"{name}: {_difference(key, x, y)}")
        for key in sorted(x["sampling"].keys() | y["sampling"].keys()):
            before, after = x["sampling"].get(key), y["sampling"].get(key)
            if before != after:
                unlike.append(f"{name}: sampling.{key} {before} and {after}")
    if unlike:
        raise ExtraError(
            f"{one.path} (step {one.step}) and {other.path} (step {other.step}) were not measured alike:\n  "
            + "\n  ".join(unlike)
            + "\nEvaluate both in the same way"
        )


def _difference(key: str, x: Mapping[str, Any], y: Mapping[str, Any]) -> str:
    if key != "problems":
        return f"{key} {x[key]} and {y[key]}"
    ours, theirs = set(x["uids"]), set(y["uids"])
    if ours == theirs:
        return "problems: the same identities with other prompts or answers"
    return (
        f"problems: {len(ours)} and {len(theirs)}, of which {len(ours - theirs)} are only in the first and "
        f"{len(theirs - ours)} only in the second"
    )


def _paired(a: Sequence[Run], b: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """Both arms in the order of their seeds."""
    for arm in (a, b):
        seeds = [run.seed for run in arm]
        if twice := {seed for seed in seeds if seeds.count(seed) > 1}:
            raise ExtraError(f"{', '.join(run.path for run in arm)}: two runs of seed {min(twice)} in one arm")
        if len({run.step for run in arm}) > 1:
            steps = ", ".join(f"{run.path} at step {run.step}" for run in arm)
            raise ExtraError(f"an arm has evaluations of different steps: {steps}. Choose one with RUN@STEP")
    one, other = (sorted(arm, key=lambda run: run.seed) for arm in (a, b))
    if len(one) != len(other) or (len(one) > 1 and [r.seed for r in one] != [r.seed for r in other]):
        raise ExtraError(
            f"arms are paired by seed: the first has seeds {[run.seed for run in one]}, the second "
            f"{[run.seed for run in other]}. Give the same seeds on both sides"
        )
    return one, other


def _scores(arm: Sequence[Run], benchmark: str, k: int) -> np.ndarray:
    """``[S, P]`` pass@k, problems in the order of the first run."""
    records = [run.records[benchmark] for run in arm]
    order = sorted(records[0]["uids"])
    rows = []
    for record in records:
        place = {uid: index for index, uid in enumerate(record["uids"])}
        counts = np.asarray(record["correct"]).sum(axis=1)[[place[uid] for uid in order]]
        rows.append(pass_at_k(record["num_generations"], counts, k))
    return np.stack(rows)


def _rows(benchmarks: Sequence[str], scores: Sequence[Sequence[np.ndarray]], score: str) -> list[dict[str, Any]]:
    """The mean over benchmarks, if there are several, then each benchmark; without the adjusted p-value."""
    differences = [b - a for a, b in scores]
    seeds = len(differences[0])
    draws = hierarchical_draws(differences)
    fixed = hierarchical_draws([difference.mean(axis=0, keepdims=True) for difference in differences])
    rows = []
    for index, name in enumerate(["mean", *benchmarks]):
        chosen = range(len(benchmarks)) if name == "mean" and index == 0 else [index - 1]
        if index == 0 and len(benchmarks) == 1:
            continue
        by_seed = np.mean([differences[i].mean(axis=1) for i in chosen], axis=0)
        by_problem = np.concatenate([differences[i].mean(axis=0) / differences[i].shape[1] for i in chosen])
        rows.append(
            {
                "benchmark": name,
                "score": score,
                "a": float(np.mean([scores[i][0].mean() for i in chosen])),
                "b": float(np.mean([scores[i][1].mean() for i in chosen])),
                "difference": float(by_seed.mean()),
                "interval": quantile_interval(draws[:, list(chosen)].mean(axis=1)) if seeds > 1 else None,
                "problem_interval": quantile_interval(fixed[:, list(chosen)].mean(axis=1)),
                "p_seeds": sign_flip_p(by_seed) if seeds > 1 else None,
                "p_problems": sign_flip_p(by_problem),
            }
        )
    return rows


def verdict(comparison: Comparison) -> str:
    """What the primary row says, and how far it can be trusted, in plain words."""
    row, seeds = comparison.rows[0], len(comparison.a)
    low, high = row.interval or row.problem_interval
    where = "the mean over the benchmarks" if row.benchmark == "mean" else row.benchmark
    effect = f"{row.score} of {where}: B - A = {row.difference:+.3f} [{low:+.3f}, {high:+.3f}]"
    if low <= 0 <= high:
        said = f"No evidence of a difference. {effect}; the interval includes zero."
    else:
        said = f"B is {'better' if row.difference > 0 else 'worse'} than A. {effect}, p = {row.p_holm:.2g} after Holm."
        if row.p_holm >= 1 - CONFIDENCE:
            said = f"Not conclusive. {effect}; the interval excludes zero, but p = {row.p_holm:.2g} after Holm."
    if seeds == 1:
        return f"{said} With one seed per arm this is about these two trainings only, not about the methods."
    tests = len(comparison.rows)
    enough = next(count for count in itertools.count(1) if tests * 2 / 2**count < 1 - CONFIDENCE)
    if seeds < enough:
        smallest = min(1.0, tests * 2 / 2**seeds)
        said += (
            f" With {seeds} seeds and {tests} rows no p-value can be below {smallest:.2g} after Holm, so this is a "
            f"description; {enough} seeds could decide."
        )
    return said
