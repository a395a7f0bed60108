"""Files of a run directory: where they live and how they are written so that a kill never leaves half a file."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from extra_jax.errors import ExtraError
from extra_jax.files import is_remote, parse_json, write_file

METRICS_FILE = "metrics.jsonl"
ROLLOUTS_FOLDER = "rollouts"
EVALS_FOLDER = "evals"
CONFIG_FILE = "config.yaml"
RUN_FILE = "run.json"
LOCK_FILE = "run.lock"
REPORT_FILE = "report.html"


def local_run_dir(run_dir: str | Path) -> Path:
    """The run directory as a local path.

    Telemetry appends and renames, which object stores cannot do; ``Path("gs://bucket/x")`` would quietly become
    a local folder called ``gs:``.

    Raises:
        ExtraError: ``run_dir`` is a URL.
    """
    if is_remote(run_dir):
        raise ExtraError(
            f"run directory {run_dir}: metrics, rollouts and reports need a local (or mounted) folder; "
            "set run.dir to one, e.g. run.dir=runs/my_run"
        )
    return Path(run_dir)


def to_json(row: Mapping[str, Any]) -> str:
    """One line of strict JSON (no ``NaN``, no ``Infinity``); text stays readable UTF-8."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False)


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Writes one JSON object per line, atomically."""
    return write_file(path, "".join(to_json(row) + "\n" for row in rows))


def parse_row(line: str, path: Path, number: int) -> dict[str, Any]:
    """Parses one row; ``path`` and ``number`` (from 1) name it in the error."""
    row = parse_json(line, f"{path}, row {number}")
    if not isinstance(row, dict):
        raise ExtraError(f"{path}, row {number}: expected a JSON object, found {type(row).__name__}")
    return row
