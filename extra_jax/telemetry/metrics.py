"""``metrics.jsonl``: the numbers of a run, one JSON object per line, on disk before the step counts as done.

A line is ``{"step": 12, "time": 1719847000.123, "reward": 0.41, ...}``: step first, then Unix seconds, then the metrics
under the names of ``extra_jax.telemetry.names``. Step ``N`` means "after ``N`` optimizer steps of the trainer"; step 0
holds what was measured before training.

JSON has no NaN. A value that is not finite is written as ``null`` so that every reader can parse the line and the
column stays numeric, and the line gets ``"nonfinite": {"loss": "nan"}`` so that nothing is hidden.
"""

import logging
import math
import os
import time as clock
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from extra_jax.errors import ExtraError
from extra_jax.files import write_file
from extra_jax.telemetry.files import METRICS_FILE, local_run_dir, parse_row, to_json
from extra_jax.telemetry.trackers import Expendable, Tracker

_logger = logging.getLogger(__name__)

NONFINITE = "nonfinite"
_RESERVED = ("step", "time", NONFINITE)


class MetricsLog:
    """Appends the metrics of each step to ``metrics.jsonl`` and hands them to the trackers.

    Each line is flushed and synced before ``log`` returns. Steps never go back; a second call with the same step (an
    evaluation after the step) is a further line, and ``read_metrics`` merges the two.

    Args:
        run_dir: Local run directory; made if missing.
        trackers: Optional further receivers (``make_trackers``); closed with the log.
        resume_step: The step of the checkpoint that the run continues from: lines of later steps are removed, by an
            atomic rewrite, as those steps will run again. ``None`` keeps every line. A run that starts over without
            a checkpoint passes 0.

    Attributes:
        notes: What was repaired on opening (a line cut by a kill, lines removed), one sentence each; also logged as
            warnings.

    Raises:
        ExtraError: ``run_dir`` is a URL, or an existing line other than the last is damaged.
    """

    def __init__(self, run_dir: str | Path, trackers: Sequence[Tracker] = (), resume_step: int | None = None) -> None:
        self.path = local_run_dir(run_dir) / METRICS_FILE
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.notes = _repair(self.path, resume_step)
        for note in self.notes:
            _logger.warning(note)
        rows = _read_rows(self.path)[0] if self.path.exists() else []
        self._last_step = max((row["step"] for row in rows), default=-1)
        self._trackers = tuple(map(Expendable, trackers))
        self._file = self.path.open("a", encoding="utf-8")

    def log(self, step: int, metrics: Mapping[str, Any], time: float | None = None) -> None:
        """Writes one line and feeds the trackers.

        Args:
            step: Trainer step, not smaller than any step already in the file.
            metrics: Name -> number (Python, numpy or a 0-d array of any kind), string, bool or ``None``.
            time: Unix seconds; now by default.

        Raises:
            ExtraError: ``step`` lies before the last line.
            TypeError: a value is not a scalar (the metric is named).
            ValueError: a metric is called ``step``, ``time`` or ``nonfinite``.
        """
        if step < self._last_step:
            raise ExtraError(
                f"{self.path}: step {step} comes after step {self._last_step}; open the log with "
                f"resume_step={max(step - 1, 0)} to run those steps again, or use another run.dir"
            )
        scalars = {key: _scalar(key, value) for key, value in metrics.items()}
        if taken := [key for key in _RESERVED if key in scalars]:
            raise ValueError(f"metric names reserved for the log itself: {', '.join(taken)}")
        row = _row(int(step), clock.time() if time is None else time, scalars)
        self._file.write(to_json(row) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._last_step = int(step)
        numbers = {key: float(value) for key, value in scalars.items() if isinstance(value, int | float)}
        for tracker in self._trackers:
            tracker.log(int(step), numbers)

    def close(self) -> None:
        """Closes the file and the trackers; harmless when called twice."""
        if not self._file.closed:
            self._file.close()
            for tracker in self._trackers:
                tracker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def read_metrics(run_dir: str | Path) -> list[dict[str, Any]]:
    """The metrics of a run in step order, one dict per step.

    Lines of the same step are merged, later values winning. A last line that is still being written (or was cut by a
    kill) is left out. Values that were not finite are ``None``; ``nonfinite`` names them.

    Raises:
        ExtraError: there is no ``metrics.jsonl``, or a line other than the last is damaged.
    """
    path = local_run_dir(run_dir) / METRICS_FILE
    if not path.is_file():
        raise ExtraError(f"{path}: no such file; is {run_dir} a run directory that has started training?")
    merged: dict[int, dict[str, Any]] = {}
    for row in _read_rows(path)[0]:
        before = merged.setdefault(row["step"], {})
        nonfinite = {**before.get(NONFINITE, {}), **row.get(NONFINITE, {})}
        before.update(row)
        before.pop(NONFINITE, None)
        if still := {key: value for key, value in nonfinite.items() if before.get(key) is None}:
            before[NONFINITE] = still
    return [merged[step] for step in sorted(merged)]


def _scalar(key: str, value: Any) -> bool | int | float | str | None:
    """A JSON scalar; float32 becomes its shortest decimal form (0.1, not 0.10000000149), which reads back equal."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and not isinstance(value, np.floating):
        return value
    array = np.asarray(value)
    if array.ndim or (array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16"):
        raise TypeError(f"metric {key!r}: expected a scalar, got {type(value).__name__} of shape {array.shape}")
    if array.dtype.kind in "biu":
        return array.item()
    return float(str(array.astype(np.float32)[()])) if array.dtype.itemsize <= 4 else float(array)


def _row(step: int, time: float, scalars: Mapping[str, Any]) -> dict[str, Any]:
    nonfinite = {
        key: str(value) for key, value in scalars.items() if isinstance(value, float) and not math.isfinite(value)
    }
    row = {"step": step, "time": round(time, 3), **scalars, **dict.fromkeys(nonfinite)}
    return row | {NONFINITE: nonfinite} if nonfinite else row


def _read_rows(path: Path) -> tuple[list[dict[str, Any]], str]:
    """The complete rows and the text of a cut last line (``""`` when there is none)."""
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    rows, tail = [_metrics_row(line, path, number) for number, line in enumerate(lines[:-1], start=1)], lines[-1]
    if tail:
        try:
            rows.append(_metrics_row(tail, path, len(lines)))
        except ExtraError:  # Only the newest line can be cut by a kill; the caller reports it.
            return rows, tail
    return rows, ""


def _metrics_row(line: str, path: Path, number: int) -> dict[str, Any]:
    row = parse_row(line, path, number)
    if not isinstance(row.get("step"), int):
        raise ExtraError(f"{path}, row {number}: no integer `step`; this file was not written by extra-jax")
    return row


def _repair(path: Path, resume_step: int | None) -> list[str]:
    """Removes a cut last line and, when resuming, the lines of steps that will run again; says what it did."""
    if not path.exists():
        return []
    rows, cut = _read_rows(path)
    kept = rows if resume_step is None else [row for row in rows if row["step"] <= resume_step]
    again = [] if resume_step is None else [row["step"] for row in rows if row["step"] > resume_step]
    notes = []
    if cut:
        notes.append(f"{path}: removed a last line of {len(cut)} characters that was cut while it was being written")
    if again:
        notes.append(
            f"{path}: removed steps {min(again)} to {max(again)}, which run again from the state of step {resume_step}"
        )
    complete = path.read_bytes().endswith(b"\n") or not rows
    if notes or not complete:
        write_file(path, "".join(to_json(row) + "\n" for row in kept))
    return notes
