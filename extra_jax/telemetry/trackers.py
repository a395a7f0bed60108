"""Optional dashboards beside ``metrics.jsonl``: TensorBoard, Weights & Biases, Trackio.

Each is imported only when the configuration names it (``logging.trackers``) and lives behind one small protocol.
TensorBoard events are written with the ``tensorboard`` package alone: no torch, no TensorFlow.
"""

import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from extra_jax.errors import ExtraError
from extra_jax.telemetry.files import local_run_dir

PROJECT = "extra-jax"


class Tracker(Protocol):
    """Receives the numbers of each step; NaN and infinities arrive as such."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def make_trackers(
    names: Sequence[str], run_dir: str | Path, config: Mapping[str, Any], resume_step: int | None = None
) -> tuple[Tracker, ...]:
    """Opens the named trackers; call it in process 0 only.

    Args:
        names: Of ``tensorboard``, ``wandb``, ``trackio``.
        run_dir: Its last component names the run; TensorBoard writes into ``run_dir/tensorboard``.
        config: The resolved configuration as a nested mapping, shown by wandb and trackio beside the curves.
        resume_step: Step of the checkpoint that the run continues from, ``None`` for a new run. TensorBoard then drops
            the points of later steps; wandb and trackio reopen the run of the same name and show those steps twice.

    Raises:
        ExtraError: a tracker is unknown or its package is not installed.
    """
    if unknown := [name for name in names if name not in _OPENERS]:
        raise ExtraError(f"logging.trackers: unknown tracker {unknown[0]!r}; known: {', '.join(_OPENERS)}")
    directory = local_run_dir(run_dir)
    return tuple(_OPENERS[name](directory, config, resume_step) for name in names)


class TensorBoardTracker:
    """Scalars into ``run_dir/tensorboard``; open with ``tensorboard --logdir RUN_DIR``."""

    def __init__(self, run_dir: Path, config: Mapping[str, Any], resume_step: int | None) -> None:
        writer = _import("tensorboard.summary.writer.event_file_writer", "tensorboard")
        self._event = _import("tensorboard.compat.proto.event_pb2", "tensorboard")
        self._summary = _import("tensorboard.compat.proto.summary_pb2", "tensorboard")
        self._writer = writer.EventFileWriter(str(run_dir / "tensorboard"))
        if resume_step is not None:
            # A START record makes TensorBoard purge the points of this step and later from older files.
            start = self._event.SessionLog(status=self._event.SessionLog.START)
            self._add(resume_step + 1, session_log=start)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        values = [self._summary.Summary.Value(tag=key, simple_value=value) for key, value in metrics.items()]
        self._add(step, summary=self._summary.Summary(value=values))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()

    def _add(self, step: int, **content: Any) -> None:
        self._writer.add_event(self._event.Event(wall_time=time.time(), step=step, **content))


class WandbTracker:
    """One wandb run per run directory, in project ``extra-jax``; needs ``wandb login`` or ``WANDB_MODE=offline``."""

    def __init__(self, run_dir: Path, config: Mapping[str, Any], resume_step: int | None) -> None:
        wandb = _import("wandb")
        self._run = wandb.init(
            project=PROJECT,
            name=run_dir.resolve().name,
            id=_stable_id(run_dir),
            dir=str(run_dir),
            config=dict(config),
            resume="allow",
        )
        # wandb's own counter cannot go back after a resume, so `step` is an ordinary metric and the axis of all others.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log({"step": step, **metrics})

    def close(self) -> None:
        self._run.finish()


class TrackioTracker:
    """One trackio run per run directory, in project ``extra-jax``; open with ``trackio show``."""

    def __init__(self, run_dir: Path, config: Mapping[str, Any], resume_step: int | None) -> None:
        trackio = _import("trackio")
        # trackio knows a run by its name alone, so the name carries the id: equal folder names must not share a run.
        name = f"{run_dir.resolve().name}-{_stable_id(run_dir)}"
        self._run = trackio.init(project=PROJECT, name=name, config=dict(config), resume="allow")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


_OPENERS: dict[str, Callable[[Path, Mapping[str, Any], int | None], Tracker]] = {
    "tensorboard": TensorBoardTracker,
    "wandb": WandbTracker,
    "trackio": TrackioTracker,
}


def _import(module: str, package: str | None = None) -> ModuleType:
    package = package or module
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ExtraError(
            f"logging.trackers names {package!r}, which cannot be imported ({error}); "
            "install it with: pip install extra-jax[track]"
        ) from error


def _stable_id(run_dir: Path) -> str:
    """The id under which wandb and trackio find the run again, kept in the run directory."""
    path = run_dir / "tracker_id"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{time.time_ns():x}")
    return path.read_text().strip()
