"""What a report is made of: the files of a run, read once, and the sentences that the numbers support."""

import datetime as dt
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from extra_jax.errors import ExtraError
from extra_jax.files import read_json_object, read_text
from extra_jax.reward.verdict import Verdict
from extra_jax.telemetry.evaluations import ROWS, evaluated_steps, evaluation_path
from extra_jax.telemetry.files import (
    CONFIG_FILE,
    EVALS_FOLDER,
    METRICS_FILE,
    RUN_FILE,
    local_run_dir,
)
from extra_jax.telemetry.metrics import read_metrics
from extra_jax.telemetry.records import read_row, read_rows, record_path, recorded_steps
from extra_jax.telemetry.statistics import paired_change, paired_difference

_UNJUDGED = (Verdict.GOLD_UNPARSEABLE, Verdict.TIMEOUT, Verdict.ERROR)
_LARGE = ("correct", "lengths", "truncated", "verdicts", "majority", "uids")

# A run may hold gigabytes of completions. What is read of them does not grow with it.
_SAMPLED_STEPS, _SAMPLED_ROWS, _SAMPLED_BYTES, _LOOKED_AT = 24, 128, 1_500_000, 256


@dataclass(frozen=True)
class RunData:
    """Everything that the report shows.

    Attributes:
        directory: The run directory.
        metrics: One dict per step, ascending; empty when the run only evaluated.
        benchmarks: Evaluations by benchmark, each ascending by step; only the first and the last have what was
            measured of each problem.
        benchmark: The one that ``evaluations`` shows, ``""`` if there is none.
        config_text: The resolved configuration as YAML, ``""`` if not saved.
        environment: Content of ``run.json``, empty if not saved.
    """

    directory: Path
    metrics: list[dict[str, Any]]
    benchmarks: dict[str, list[dict[str, Any]]]
    benchmark: str
    config_text: str
    environment: dict[str, Any]

    @property
    def name(self) -> str:
        return self.directory.resolve().name

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """Those of the selected benchmark, ascending by step."""
        return self.benchmarks.get(self.benchmark, [])

    def each_benchmark(self) -> "list[RunData]":
        """This run with each of its benchmarks selected."""
        return [replace(self, benchmark=name) for name in self.benchmarks]

    @property
    def training(self) -> list[dict[str, Any]]:
        """The steps that trained (step 0 only holds the evaluation before training)."""
        return [row for row in self.metrics if row["step"] > 0]

    def column(self, key: str) -> tuple[list[float], list[float | None]]:
        """Steps and values of one metric, at the training steps that have it."""
        rows = [row for row in self.training if key in row]
        return [float(row["step"]) for row in rows], [row[key] for row in rows]

    def has(self, key: str) -> bool:
        """Whether any training step has a finite value of this metric."""
        return any(value is not None for value in self.column(key)[1])


def load_run(run_dir: str | Path) -> RunData:
    """Reads a run directory.

    Raises:
        ExtraError: the directory has neither metrics nor evaluations, or a file is damaged.
    """
    directory = local_run_dir(run_dir)
    has_metrics = (directory / METRICS_FILE).is_file()
    benchmarks = _evaluations(directory)
    if not has_metrics and not benchmarks:
        raise ExtraError(
            f"{directory}: neither {METRICS_FILE} nor evals/ is there; give the directory of a run that has started"
        )
    config, environment = directory / CONFIG_FILE, directory / RUN_FILE
    return RunData(
        directory=directory,
        metrics=read_metrics(directory) if has_metrics else [],
        benchmarks=benchmarks,
        benchmark=next(iter(benchmarks), ""),
        config_text=read_text(config) if config.is_file() else "",
        environment=read_json_object(environment) if environment.is_file() else {},
    )


def _evaluations(directory: Path) -> dict[str, list[dict[str, Any]]]:
    """As ``read_evaluations``, without the matrices of those in between."""
    benchmarks: dict[str, list[dict[str, Any]]] = {}
    for name in sorted(path.name for path in (directory / EVALS_FOLDER).glob("*") if path.is_dir()):
        steps = evaluated_steps(directory, name)
        for step in steps:
            evaluation = read_json_object(evaluation_path(directory, name, step))
            if step not in (steps[0], steps[-1]):
                evaluation = {key: value for key, value in evaluation.items() if key not in _LARGE}
            benchmarks.setdefault(name, []).append(evaluation)
    return benchmarks


def pass_names(evaluation: Mapping[str, Any]) -> list[str]:
    """``["pass@1", "pass@2", ...]`` of an evaluation, ascending."""
    names = [name for name in evaluation["summary"] if name.startswith("pass@")]
    return sorted(names, key=lambda name: int(name.removeprefix("pass@")))


def shared_pass_names(evaluations: Sequence[Mapping[str, Any]]) -> list[str]:
    """The pass@k that every one of the evaluations has."""
    shared = set.intersection(*(set(pass_names(e)) for e in evaluations)) if evaluations else set()
    return sorted(shared, key=lambda name: int(name.removeprefix("pass@")))


def majority_names(evaluations: Sequence[Mapping[str, Any]]) -> list[str]:
    """``["maj@16"]`` if every one of the evaluations has it."""
    names = [{name for name in e["summary"] if name.startswith("maj@")} for e in evaluations]
    return sorted(set.intersection(*names)) if names else []


def difference(before: Mapping[str, Any], after: Mapping[str, Any], name: str) -> dict[str, float] | None:
    """Paired change of one pass@k or of maj@N; ``None`` when problems, grader or sampling are not the same."""
    if any(before.get(key) != after.get(key) for key in ("problems", "grader", "sampling")):
        return None
    if set(before["uids"]) != set(after["uids"]) or len(set(before["uids"])) != len(before["uids"]):
        return None
    row = {uid: index for index, uid in enumerate(after["uids"])}
    order = [row[uid] for uid in before["uids"]]
    if name.startswith("maj@"):
        return paired_change(np.asarray(before["majority"]), np.asarray(after["majority"])[order])
    aligned = np.asarray(after["correct"])[order]
    return paired_difference(np.asarray(before["correct"]), aligned, int(name.removeprefix("pass@")))


def unjudged_share(evaluation: Mapping[str, Any]) -> float:
    """Share of the completions that the grader could not judge (they count as not correct)."""
    verdicts = [verdict for row in evaluation.get("verdicts", ()) for verdict in row]
    return sum(verdict in _UNJUDGED for verdict in verdicts) / len(verdicts) if verdicts else 0.0


def interval_text(value: Mapping[str, float], sign: bool = False) -> str:
    """``0.31 [0.28, 0.34]``, or with signs for a change; the brackets never break over a line."""
    form = "+.3f" if sign else ".3f"
    return f"{value['mean']:{form}} [{value['low']:{form}},\u00a0{value['high']:{form}}]"


def headline_names(run: RunData) -> list[str]:
    """pass@1 and the pass@k of the largest k that all evaluations have."""
    names = shared_pass_names(run.evaluations)
    return list(dict.fromkeys([*names[:1], *names[-1:]]))


def verdict(run: RunData, name: str = "pass@1") -> tuple[str, str]:
    """What the run did, in one sentence, and how sure that is, in a second; says so where the data cannot tell."""
    if not run.evaluations:
        return "No held-out evaluation was run.", _training_sentence(run)
    before, after = run.evaluations[0], run.evaluations[-1]
    named = f" of {run.benchmark}" if len(run.benchmarks) > 1 else ""
    problems = f"{after['summary']['num_problems']:,} held-out problems{named}"
    if len(run.evaluations) == 1:
        when = "before training" if after["step"] == 0 else f"at step {after['step']:,}"
        return f"{name} on {problems} is {interval_text(after['summary'][name])} {when}.", ""
    sentence = (
        f"{name} on {problems} went from {interval_text(before['summary'][name])} at step {before['step']:,} to "
        f"{interval_text(after['summary'][name])} at step {after['step']:,}."
    )
    return sentence, _change_sentence(difference(before, after, name))


def _change_sentence(change: Mapping[str, float] | None) -> str:
    if change is None:
        return "The two evaluations differ in problems, grader or sampling, so the change is not paired."
    text = f"Change on the same problems: {interval_text(change, sign=True)}"
    if change["low"] <= 0 <= change["high"]:
        return f"{text}; the interval includes zero, so this is no evidence of a change."
    return f"{text}; the interval excludes zero."


def _training_sentence(run: RunData) -> str:
    key = "reward" if run.has("reward") else "loss"
    values = [v for v in run.column(key)[1] if v is not None]
    if not values:
        return ""
    edge = max(1, len(values) // 10)
    return (
        f"Mean training {key}: {np.mean(values[:edge]):.3f} at the start, {np.mean(values[-edge:]):.3f} at the end "
        f"(first and last {edge} of {len(values):,} steps); that is not a measure of what was learned."
    )


@dataclass(frozen=True)
class Example:
    """One problem with a completion before and one after; either may be missing."""

    title: str
    prompt: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None


def choose_examples(run: RunData) -> tuple[list[Example], str]:
    """Examples for the report and a sentence on how they were chosen.

    The first problem in file order of each kind (wrong or correct, before and after) by its first sample, so nobody
    picks by hand. Without two recorded evaluations: completions of the first and last recorded training step.
    """
    steps = [
        e["step"] for e in run.evaluations if evaluation_path(run.directory, run.benchmark, e["step"], ROWS).is_file()
    ]
    if len(run.evaluations) > 1 and {run.evaluations[0]["step"], run.evaluations[-1]["step"]} <= set(steps):
        return _paired_examples(run), (
            f"Held-out problems of {run.benchmark}, evaluated at step {steps[0]:,} and step {steps[-1]:,}: the first "
            "problem of each kind in file order with its first sample, not picked by hand."
        )
    steps = recorded_steps(run.directory)
    if not steps:
        return [], "No completions were recorded (logging.rollouts_every=0)."
    return _training_examples(run, steps), (
        f"Training completions of step {steps[0]:,} and step {steps[-1]:,} (different problems): the first of each "
        f"verdict among the first {_LOOKED_AT} in file order, not picked by hand."
    )


def _paired_examples(run: RunData) -> list[Example]:
    """The outcomes are known from the numbers, so of the completions only those that are shown are parsed."""
    kinds = {
        (0, 1): "Wrong before, correct after",
        (1, 0): "Correct before, wrong after",
        (0, 0): "Wrong both times",
        (1, 1): "Correct both times",
    }
    before, after = run.evaluations[0], run.evaluations[-1]
    place = {uid: index for index, uid in reversed(list(enumerate(after["uids"])))}
    pairs: dict[tuple[int, int], tuple[int, int]] = {}
    for index, uid in enumerate(before["uids"]):
        if uid in place:
            kind = (int(before["correct"][index][0]), int(after["correct"][place[uid]][0]))
            pairs.setdefault(kind, (index, place[uid]))
    shown = [_first_samples(run, e, [pair[side] for pair in pairs.values()]) for side, e in enumerate((before, after))]
    return [
        Example(title, shown[0][pairs[kind][0]]["prompt"], shown[0][pairs[kind][0]], shown[1][pairs[kind][1]])
        for kind, title in kinds.items()
        if kind in pairs
    ]


def _first_samples(run: RunData, evaluation: Mapping[str, Any], problems: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Problem -> its first row; other rows are passed over unread."""
    path, n = evaluation_path(run.directory, run.benchmark, evaluation["step"], ROWS), evaluation["num_generations"]
    rows = {}
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(itertools.islice(file, (max(problems, default=-1) + 1) * n)):
            if number % n == 0 and number // n in problems:
                rows[number // n] = read_row(line, path, number + 1)
    if missing := set(problems) - rows.keys():
        raise ExtraError(f"{path}: fewer rows than its evaluation has; problem {min(missing)} is missing")
    return rows


def _training_examples(run: RunData, steps: Sequence[int]) -> list[Example]:
    examples = []
    for step in dict.fromkeys((steps[0], steps[-1])):
        for correct in (True, False):
            rows = itertools.islice(read_rows(record_path(run.directory, step)), _LOOKED_AT)
            row = next((r for r in rows if (r["verdict"] == "correct") == correct), None)
            if row is not None:
                title = f"Step {step:,}, {'correct' if correct else 'not correct'}"
                first = step == steps[0]
                examples.append(Example(title, row["prompt"], row if first else None, None if first else row))
    return examples


def sampled_records(run: RunData) -> tuple[dict[int, list[dict[str, Any]]], str]:
    """Rows of some recorded steps, and how they were chosen: 24 steps from first to last, of each the first 128
    completions that fit into 1.5 MB."""
    steps = recorded_steps(run.directory)
    places = np.linspace(0, len(steps) - 1, min(len(steps), _SAMPLED_STEPS)).round().astype(int)
    chosen = {steps[place]: list(_head(record_path(run.directory, steps[place]))) for place in places}
    how = f"{len(chosen)} of {len(steps):,} recorded steps, of each the first {_SAMPLED_ROWS} completions at most."
    return chosen, how


def _head(path: Path) -> Iterator[dict[str, Any]]:
    size = 0
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(itertools.islice(file, _SAMPLED_ROWS), start=1):
            size += len(line)
            if size > _SAMPLED_BYTES and number > 1:
                return
            yield read_row(line, path, number)


def span_text(seconds: float) -> str:
    """A duration for people: ``42 s``, ``7 min 5 s``, ``3 h 12 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def wall_clock(run: RunData) -> tuple[str, float] | None:
    """Date of the first line (UTC) and seconds between first and last line; ``None`` without metrics."""
    times = [row["time"] for row in run.metrics if isinstance(row.get("time"), int | float)]
    if not times:
        return None
    start = dt.datetime.fromtimestamp(min(times), tz=dt.UTC)
    return start.strftime("%Y-%m-%d %H:%M UTC"), max(times) - min(times)
