"""What the page may ask, by name; the same questions are answered from a file by the page that ``--out`` writes."""

import contextlib
import json
import math
import re
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from extra_jax.errors import ExtraError
from extra_jax.telemetry.page import ASSETS as REPORT_ASSETS
from extra_jax.view.groups import VERDICTS, Wanted
from extra_jax.view.sources import Source
from extra_jax.view.viewed import Viewed, run_directories

Query = Mapping[str, str]

_MOST = 200  # groups of one answer
_LOOK = 2.0  # seconds between two looks at the disk while there is still something to index


class Refused(Exception):
    """There is no answer to a question; why."""


class Answers:
    """Answers questions about some runs, one at a time, so memory is that of one answer.

    Args:
        paths: run directories, and folders of runs; runs that begin later in a folder come to the end of the page.

    Attributes:
        runs: in the order of the page.

    Raises:
        ExtraError: there are none, or too many.
    """

    def __init__(self, paths: Sequence[str]):
        self._paths = paths
        self._lock = threading.Lock()
        self._looked = time.monotonic()
        self.runs: list[Viewed] = []
        self._open(run_directories(paths))

    def _open(self, directories: Sequence[Path]) -> None:
        known = [run.directory for run in self.runs]
        self.runs += [Viewed(directory) for directory in directories if directory not in known]
        names = [run.directory.resolve().name for run in self.runs]
        for run, name in zip(self.runs, names, strict=True):
            run.name = name if names.count(name) == 1 else f"{run.directory.resolve().parent.name}/{name}"

    def _look(self) -> None:
        for run in self.runs:
            run.look()
        with contextlib.suppress(ExtraError):  # a folder that went away, or too many runs: those that are open stay
            self._open(run_directories(self._paths))
        self._looked = time.monotonic()

    def advance(self) -> bool:
        """Indexes one file of each source, newest first; ``False`` where nothing was left to do."""
        pending = any(source.pending for run in self.runs for source in run.sources.values())
        if not pending or time.monotonic() - self._looked > _LOOK:  # a look at a thousand files is not for each of them
            with self._lock:
                self._look()
        worked = False
        for run in list(self.runs):
            for source in list(run.sources.values()):
                with self._lock:
                    worked |= source.read_one()
        return worked

    def __call__(self, name: str, query: Query) -> Any:
        """The answer as JSON values.

        Raises:
            Refused: no such question, or what it is about is not there.
        """
        known = {
            "runs": self._runs,
            "state": self._state,
            "curves": self._curves,
            "groups": self._groups,
            "group": self._group,
            "row": self._row,
        }
        if name not in known:
            raise Refused(f"nothing is known by the name {name!r}")
        with self._lock:
            try:
                return known[name](query)
            except (OSError, ExtraError) as error:  # a file went away, or changed, since it was indexed
                raise Refused(str(error)) from error

    def _runs(self, query: Query) -> Any:
        return {"runs": [run.about() for run in self.runs], "verdicts": VERDICTS, **words()}

    def _state(self, query: Query) -> Any:
        return [run.state() for run in self.runs]

    def _curves(self, query: Query) -> Any:
        return self._run(query).curves.columns()

    def _groups(self, query: Query) -> Any:
        run, source = self._source(query)
        after = _pair(query["after"]) if query.get("after") else None
        most = min(_whole(query, "most", 60) or 60, _MOST)
        return run.groups(source, wanted(query), after, most)

    def _group(self, query: Query) -> Any:
        run, source = self._source(query)
        shown = run.group(source, *_pair(query.get("ref", "")), _whole(query, "first", 0) or 0)
        if shown is None:
            raise Refused(f"{query['ref']}: no such completion among those that are indexed")
        return shown

    def _row(self, query: Query) -> Any:
        run, source = self._source(query)
        step, rollout = _pair(query.get("ref", ""))
        return run.relative(source, f"{step}:{rollout}")

    def _run(self, query: Query) -> Viewed:
        place = _whole(query, "run", 0) or 0
        if place >= len(self.runs):
            raise Refused(f"there is no run {place}")
        return self.runs[place]

    def _source(self, query: Query) -> tuple[Viewed, Source]:
        run = self._run(query)
        name = query.get("source", "training")
        if name not in run.sources:
            raise Refused(f"{run.name} has no completions of {name}")
        return run, run.sources[name]


def wanted(query: Query) -> Wanted:
    """The filter of a question; what it does not understand is refused."""
    outcome, guided = query.get("outcome", ""), query.get("guided", "")
    if outcome not in ("", "mixed", "solved", "unsolved", *VERDICTS) or guided not in ("", "yes", "no"):
        raise Refused("no such filter")
    return Wanted(
        _whole(query, "step", None),
        outcome,
        query.get("bonus") == "yes",
        guided,
        query.get("truncated") == "yes",
        _whole(query, "shortest", None),
        _whole(query, "longest", None),
        query.get("q", "")[:200],
    )


@cache
def words() -> dict[str, Any]:
    """What the metrics mean, as the report says it."""
    return yaml.safe_load((REPORT_ASSETS / "metrics.yaml").read_text(encoding="utf-8"))


def _whole(query: Query, name: str, default: int | None) -> int | None:
    given = query.get(name, "")
    if given and not re.fullmatch(r"\d{1,9}", given):
        raise Refused(f"{name}: not a whole number")
    return int(given) if given else default


def _pair(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,9}):(\d{1,15})", text)
    if not match:
        raise Refused("a completion is named by its step and number, such as 12:345")
    return int(match[1]), int(match[2])


def to_json(value: Any) -> bytes:
    """Strict JSON in ASCII; what is not finite becomes ``null``."""
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False, separators=(",", ":")).encode()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
