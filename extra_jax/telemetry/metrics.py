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
from extra_jax.files import disk_errors, write_file
from extra_jax.telemetry.files import METRICS_FILE, local_run_dir, parse_row, to_json
from extra_jax.telemetry.trackers import Expendable, Tracker

_logger = logging.getLogger(__name__)

NONFINITE = "nonfinite"
_RESERVED = ("step", "time", NONFINITE)


class MetricsLog:
    """Appends the metrics of each step to ``metrics.jsonl`` and hands them to the trackers.

    Each line is synced before ``log`` returns. Steps never go back; a second call with the same step (an evaluation
    after the step) is a further line, and ``read_metrics`` merges the two. What stands there already is not repeated:
    a run that was killed after an evaluation measures the same again.

    Args:
        run_dir: Local run directory; made if missing.
        trackers: Optional further receivers (``make_trackers``); closed with the log.
        resume_step: The step of the checkpoint that the run continues from: lines of later steps are removed, by an
            atomic rewrite, as those steps will run again. ``None`` keeps every line. A run that starts over without
            a checkpoint passes 0.

    Attributes:
        notes: What was repaired on opening (a line cut by a kill, lines removed) or is missing, one sentence each; also
            logged as warnings.

    Raises:
        ExtraError: ``run_dir`` is a URL, an existing line other than the last is damaged, or the disk refuses.
    """

    def __init__(self, run_dir: str | Path, trackers: Sequence[Tracker] = (), resume_step: int | None = None) -> None:
        self.path = local_run_dir(run_dir) / METRICS_FILE
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            rows, self.notes = _repair(self.path, resume_step)
            self._file = self.path.open("ab", buffering=0)  # nothing is left to write when a full disk ends the run
        for note in self.notes:
            _logger.warning(note)
        self._last_step = max((row["step"] for row in rows), default=-1)
        self._last = {key: value for row in rows if row["step"] == self._last_step for key, value in row.items()}
        self._trackers = tuple(map(Expendable, trackers))

    def log(self, step: int, metrics: Mapping[str, Any], time: float | None = None) -> None:
        """Writes one line, unless the step has it already, and feeds the trackers.

        Args:
            step: Trainer step, not smaller than any step already in the file.
            metrics: Name -> number (Python, numpy or a 0-d array of any kind), string, bool or ``None``.
            time: Unix seconds; now by default.

        Raises:
            ExtraError: ``step`` lies before the last line, or the disk refuses it.
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
        before = self._last if step == self._last_step else {}
        if not row.items() <= (before | {"time": row["time"]}).items():
            self._write(f"{to_json(row)}\n".encode())
        self._last_step, self._last = int(step), before | row
        numbers = {key: float(value) for key, value in scalars.items() if isinstance(value, int | float)}
        for tracker in self._trackers:
            tracker.log(int(step), numbers)

    def completions(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Hands completions to the trackers, which show some of them as a table."""
        for tracker in self._trackers:
            tracker.completions(step, rows)

    def _write(self, data: bytes) -> None:
        with disk_errors(self.path):
            while data:
                data = data[self._file.write(data) :]
            os.fsync(self._file.fileno())

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


def last_recorded_step(run_dir: str | Path) -> int:
    """The last step in ``metrics.jsonl``; -1 where there is none, or no such file."""
    path = local_run_dir(run_dir) / METRICS_FILE
    return max((row["step"] for row in _read_rows(path)[0]), default=-1)


def _read_rows(path: Path) -> tuple[list[dict[str, Any]], str]:
    """The complete rows and the text of a cut last line (``""`` when there is none)."""
    if not path.exists():
        return [], ""
    if not path.is_file():
        raise ExtraError(
            f"{path}: is not an ordinary file. Move it away, and put the file of the run back from a copy."
        )
    lines = path.read_bytes().decode(errors="replace").split("\n")
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


def _repair(path: Path, resume_step: int | None) -> tuple[list[dict[str, Any]], list[str]]:
    """Removes a cut last line and, when resuming, the lines of steps that will run again.

    Returns:
        The rows that are there now, and what was done and what is missing.
    """
    rows, cut = _read_rows(path)
    kept = rows if resume_step is None else [row for row in rows if row["step"] <= resume_step]
    again = [row["step"] for row in rows if resume_step is not None and row["step"] > resume_step]
    notes = []
    if cut:
        notes.append(f"{path}: removed a last line of {len(cut)} characters that was cut while it was being written")
    if again:
        notes.append(
            f"{path}: removed steps {min(again)} to {max(again)}, which run again from the state of step {resume_step}"
        )
    if notes or (rows and not path.read_bytes().endswith(b"\n")):
        write_file(path, "".join(to_json(row) + "\n" for row in kept))
    if missing := sorted(set(range(1, (resume_step or 0) + 1)) - {row["step"] for row in kept}):
        notes.append(f"{path}: the numbers of {len(missing)} steps are missing: {str(missing)[1:80]}; they stay lost")
    return kept, notes
