"""Optional dashboards beside ``metrics.jsonl``: TensorBoard, Weights & Biases, Trackio.

Each is imported only when the configuration names it (``logging.trackers``) and lives behind one small protocol.
TensorBoard events are written with the ``tensorboard`` package alone: no torch, no TensorFlow.

Names are those that the Hugging Face trainers send (``transformers.integrations.rewrite_logs``): ``train/reward``,
``eval/pass@1``. The bins of a distribution (``NAME_0``, ``NAME_1``, ... of equal bins of [0, 1]) arrive as one
histogram, and the first completions of a step as a table. The settings are the configuration of wandb and Trackio, and
TensorBoard's hyperparameters.
"""

import importlib
import importlib.util
import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from extra_jax.config import flatten
from extra_jax.errors import ExtraError
from extra_jax.telemetry.files import local_run_dir

PROJECT = "extra-jax"
AXIS = "train/global_step"
COMPLETIONS = 16  # rows of a table
_COLUMNS = ("step", "prompt", "completion", "verdict", "reward", "advantage")
_FEWEST_BINS = 5
_logger = logging.getLogger(__name__)


Row = Mapping[str, Any]


class Tracker(Protocol):
    """Receives the numbers of each step; NaN and infinities arrive as such. Names are ours."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def completions(self, step: int, rows: Sequence[Row]) -> None: ...

    def close(self) -> None: ...


def make_trackers(
    names: Sequence[str], run_dir: str | Path, config: Mapping[str, Any], resume_step: int | None = None
) -> tuple[Tracker, ...]:
    """Opens the named trackers; call it in process 0 only.

    Args:
        names: Of ``tensorboard``, ``wandb``, ``trackio``.
        run_dir: Its last component names the run; TensorBoard writes into ``run_dir/tensorboard``.
        config: The resolved configuration as a nested mapping, shown beside the curves.
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


def their_name(name: str) -> str:
    """``reward`` -> ``train/reward``, ``eval_pass@1`` -> ``eval/pass@1``."""
    return f"eval/{name.removeprefix('eval_')}" if name.startswith("eval_") else f"train/{name}"


def split_histograms(metrics: Mapping[str, float]) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Numbers and histograms, under the names of trackers; a histogram is the shares of its bins from 0 on."""
    bins: dict[str, dict[int, float]] = {}
    for name, value in metrics.items():
        if match := re.fullmatch(r"(.+)_(\d+)", name):
            bins.setdefault(match[1], {})[int(match[2])] = value
    whole = {name: b for name, b in bins.items() if len(b) >= _FEWEST_BINS and set(b) == set(range(len(b)))}
    scalars = {
        their_name(name): value
        for name, value in metrics.items()
        if not ((match := re.fullmatch(r"(.+)_(\d+)", name)) and match[1] in whole)
    }
    return scalars, {their_name(name): [b[index] for index in range(len(b))] for name, b in whole.items()}


def _edges(bins: Sequence[float]) -> list[float]:
    return [index / len(bins) for index in range(len(bins) + 1)]


def _plain(config: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """The settings by their dotted keys; what is neither a number nor a text is JSON."""
    leaves = flatten(dict(config)).items()
    return {key: value if isinstance(value, bool | int | float | str) else json.dumps(value) for key, value in leaves}


def _cells(step: int, rows: Sequence[Row]) -> list[list[Any]]:
    return [[step, *(row.get(name) for name in _COLUMNS[1:])] for row in rows[:COMPLETIONS]]


class Expendable:
    """A tracker that may die: whatever it raises is one warning, after which it gets no more numbers."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker: Tracker | None = tracker

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._try(lambda tracker: tracker.log(step, metrics))

    def completions(self, step: int, rows: Sequence[Row]) -> None:
        self._try(lambda tracker: tracker.completions(step, rows))

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
    """Writes into ``run_dir/tensorboard``; open with ``tensorboard --logdir RUN_DIR``, or a folder of runs."""

    def __init__(self, run_dir: Path, config: Mapping[str, Any], resume_step: int | None) -> None:
        writer = _import("tensorboard.summary.writer.event_file_writer", "tensorboard")
        self._event = _import("tensorboard.compat.proto.event_pb2", "tensorboard")
        self._summary = _import("tensorboard.compat.proto.summary_pb2", "tensorboard")
        self._tensor = _import("tensorboard.compat.proto.tensor_pb2", "tensorboard")
        self._writer = writer.EventFileWriter(str(run_dir / "tensorboard"))
        if resume_step is not None:
            # A START record makes TensorBoard purge the points of this step and later from older files.
            start = self._event.SessionLog(status=self._event.SessionLog.START)
            self._add(resume_step + 1, session_log=start)
        hparams = _import("tensorboard.plugins.hparams.summary_v2", "tensorboard")
        self._add(0, summary=hparams.hparams_pb(_plain(config), trial_id=str(run_dir.resolve())))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        scalars, histograms = split_histograms(metrics)
        value = self._summary.Summary.Value
        values = [value(tag=name, simple_value=number) for name, number in scalars.items()]
        values += [value(tag=name, histo=self._histogram(bins)) for name, bins in histograms.items()]
        self._add(step, summary=self._summary.Summary(value=values))
        self._writer.flush()

    def completions(self, step: int, rows: Sequence[Row]) -> None:
        """The text tab shows Markdown: a table, in which nothing that a model writes is markup."""
        lines = [_COLUMNS, ["---"] * len(_COLUMNS), *_cells(step, rows)]
        text = "\n".join(f"| {' | '.join(map(_markdown, cells))} |" for cells in lines)
        plugin = self._summary.SummaryMetadata.PluginData(plugin_name="text")
        string = self._tensor.TensorProto(dtype=7, string_val=[text.encode("utf-8", "backslashreplace")])  # DT_STRING
        metadata = self._summary.SummaryMetadata(plugin_data=plugin)
        shown = self._summary.Summary.Value(tag="completions", metadata=metadata, tensor=string)
        self._add(step, summary=self._summary.Summary(value=[shown]))

    def _histogram(self, bins: Sequence[float]) -> Any:
        edges = _edges(bins)
        middles = [(low + high) / 2 for low, high in pairwise(edges)]
        moments = [sum(b * m**power for b, m in zip(bins, middles, strict=True)) for power in (0, 1, 2)]
        return self._summary.HistogramProto(
            min=0.0,
            max=1.0,
            num=moments[0],
            sum=moments[1],
            sum_squares=moments[2],
            bucket_limit=edges[1:],
            bucket=bins,
        )

    def close(self) -> None:
        self._writer.close()

    def _add(self, step: int, **content: Any) -> None:
        self._writer.add_event(self._event.Event(wall_time=time.time(), step=step, **content))


class WandbTracker:
    """One wandb run per run directory; needs ``wandb login`` or ``WANDB_MODE=offline``.

    The project is ``WANDB_PROJECT``, or else ``extra-jax``; group and tags are ``WANDB_RUN_GROUP`` and ``WANDB_TAGS``.
    """

    def __init__(self, run_dir: Path, config: Mapping[str, Any], resume_step: int | None) -> None:
        self._wandb = _import("wandb")
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run_dir.resolve().name,
            id=_stable_id(run_dir),
            dir=str(run_dir),
            config=dict(config),
            resume="allow",
        )
        # wandb's own counter cannot go back after a resume: the step is an ordinary metric and the axis of all others.
        self._run.define_metric(AXIS)
        self._run.define_metric("*", step_metric=AXIS)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        scalars, histograms = split_histograms(metrics)
        shown = {name: self._wandb.Histogram(np_histogram=(bins, _edges(bins))) for name, bins in histograms.items()}
        self._run.log({AXIS: step, **scalars, **shown})

    def completions(self, step: int, rows: Sequence[Row]) -> None:
        self._run.log({AXIS: step, "completions": self._wandb.Table(columns=list(_COLUMNS), data=_cells(step, rows))})

    def close(self) -> None:
        self._run.finish()


class TrackioTracker:
    """One trackio run per run directory, in project ``TRACKIO_PROJECT`` or ``extra-jax``; see ``trackio show``."""

    def __init__(self, run_dir: Path, config: Mapping[str, Any], resume_step: int | None) -> None:
        trackio = _import("trackio")
        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        # trackio knows a run by its name alone, so the name carries the id: equal folder names must not share a run.
        name = f"{run_dir.resolve().name}-{_stable_id(run_dir)}"
        self._run = trackio.init(project=project, name=name, config=dict(config), resume="allow")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        scalars, histograms = split_histograms(metrics)
        bins = {f"{name}/{index}": share for name, shares in histograms.items() for index, share in enumerate(shares)}
        self._run.log(scalars | bins, step=step)

    def completions(self, step: int, rows: Sequence[Row]) -> None:
        """Nothing: its table needs pandas, and the report and ``rollouts/`` show every completion."""

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


def _markdown(cell: Any) -> str:
    text = str(cell).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
    return re.sub(r"([`*_\[\]#!])", r"\\\1", text).replace("\n", "<br>")


def _stable_id(run_dir: Path) -> str:
    """The id under which wandb and trackio find the run again, kept in the run directory."""
    path = run_dir / "tracker_id"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{time.time_ns():x}")
    return path.read_text().strip()
