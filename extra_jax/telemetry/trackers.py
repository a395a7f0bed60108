"""Optional dashboards beside ``metrics.jsonl``: TensorBoard, Weights & Biases, Trackio.

Each is imported only when the configuration names it (``logging.trackers``) and lives behind one small protocol.
TensorBoard events are written with the ``tensorboard`` package alone: no torch, no TensorFlow.
"""

import importlib
import importlib.util
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from extra_jax.errors import ExtraError
from extra_jax.telemetry.files import local_run_dir

PROJECT = "extra-jax"
_logger = logging.getLogger(__name__)


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
        ExtraError: a tracker is unknown, its package is not installed, or it does not start.
    """
    check_trackers(names)
    directory = local_run_dir(run_dir)
    return tuple(_open(name, directory, config, resume_step) for name in names)


def check_trackers(names: Sequence[str]) -> None:
    """Refuses trackers that are unknown or not installed, without importing one.

    Raises:
        ExtraError: names the first.
    """
    for name in names:
        if name not in _OPENERS:
            raise ExtraError(f"logging.trackers: unknown tracker {name!r}; known: {', '.join(_OPENERS)}")
        if sys.modules.get(name) is None and importlib.util.find_spec(name) is None:
            raise _missing(name, "there is no such package")


def _open(name: str, run_dir: Path, config: Mapping[str, Any], resume_step: int | None) -> Tracker:
    try:
        return _OPENERS[name](run_dir, config, resume_step)
    except ExtraError:
        raise
    except Exception as error:  # not logged in, no network, a full disk: each package has its own
        raise ExtraError(
            f"logging.trackers: {name} does not start ({type(error).__name__}: {error}). Mend it, or leave it out: "
            "metrics.jsonl and the report hold everything that it shows"
        ) from error


class Expendable:
    """A tracker that may die: whatever it raises is one warning, after which it gets no more numbers."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker: Tracker | None = tracker

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._try(lambda tracker: tracker.log(step, metrics))

    def close(self) -> None:
        self._try(lambda tracker: tracker.close())

    def _try(self, call: Callable[[Tracker], None]) -> None:
        if self._tracker is None:
            return
        try:
            call(self._tracker)
        except Exception as error:  # a dashboard is never worth a run
            name, self._tracker = type(self._tracker).__name__, None
            what = f"{type(error).__name__}: {error}"
            _logger.warning("%s stopped (%s) and gets no more numbers; metrics.jsonl has them all", name, what)


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
        raise _missing(package, str(error)) from error


def _missing(package: str, why: str) -> ExtraError:
    install = "install it with: pip install extra-jax[track]"
    return ExtraError(f"logging.trackers names {package!r}, which cannot be imported ({why}); {install}")


def _stable_id(run_dir: Path) -> str:
    """The id under which wandb and trackio find the run again, kept in the run directory."""
    path = run_dir / "tracker_id"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{time.time_ns():x}")
    return path.read_text().strip()
