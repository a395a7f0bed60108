"""The last words of a run: what came of it, where that is, and what to do next; lines of at most 80 columns."""

from collections.abc import Iterator
from pathlib import Path

from extra_jax.telemetry import report_data as data
from extra_jax.telemetry.files import CONFIG_FILE, REPORT_FILE

EXPORT_FOLDER = "export"


def closing_lines(run_dir: str | Path) -> list[str]:
    """pass@1 and the largest pass@k with their paired changes, the report, the model, and commands to go on with."""
    run = data.load_run(run_dir)
    rows = [row for one in run.each_benchmark() for row in _scores(one)] or [("steps", f"{_last_step(run):,}")]
    rows.append(("report", str(run.directory / REPORT_FILE)))
    if (run.directory / EXPORT_FOLDER).is_dir():
        rows.append(("model", str(run.directory / EXPORT_FOLDER)))
    rows.append(("next", f"extra-jax view {run.directory}"))
    rows.append(("", f"extra-jax sample {run.directory / CONFIG_FILE} --prompt TEXT"))
    if run.evaluations:
        rows.append(("", f"extra-jax compare {run.directory} ANOTHER_RUN"))
    width = max(len(label) for label, _ in rows)
    return [f"{'done' if not index else '':<6}{label:<{width}}  {text}" for index, (label, text) in enumerate(rows)]


def _scores(run: data.RunData) -> Iterator[tuple[str, str]]:
    before, after = run.evaluations[0], run.evaluations[-1]
    for name in data.headline_names(run):
        label = f"{run.benchmark} {name}" if len(run.benchmarks) > 1 else name
        if len(run.evaluations) == 1:
            yield label, data.interval_text(after["summary"][name])
            continue
        means = f"{before['summary'][name]['mean']:.3f} -> {after['summary'][name]['mean']:.3f}"
        change = data.difference(before, after, name)
        if change is None:
            yield label, f"{means} (not of the same problems)"
            continue
        if change["low"] <= 0 <= change["high"]:
            words = "no evidence of a change"
        else:
            what = "accuracy" if name == "pass@1" else "coverage"
            words = f"{what} {'rose' if change['mean'] > 0 else 'fell'}"
        yield label, f"{means}  {data.interval_text(change, sign=True)}: {words}".replace("\u00a0", " ")


def _last_step(run: data.RunData) -> int:
    return run.metrics[-1]["step"] if run.metrics else 0
