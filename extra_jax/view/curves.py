"""The numbers of ``metrics.jsonl`` as they grow: only what is new since the last look is read."""

import math
from pathlib import Path
from typing import Any

from extra_jax.telemetry.files import METRICS_FILE
from extra_jax.view.rows import parse

POINTS = 2_000
"""Steps of a curve that are sent at most; of a longer run every second, third, ... one, and all with an evaluation."""


class Curves:
    """The metrics of a run.

    Attributes:
        generation: grows when lines are added, and when the file was cut and is read again.
    """

    def __init__(self, run: Path):
        self.path = run / METRICS_FILE
        self.generation = 0
        self.time = 0.0
        self._forget()

    def _forget(self) -> None:
        self._offset, self._inode, self._head = 0, 0, b""
        self._rows: dict[int, dict[str, float]] = {}

    def look(self) -> None:
        """Reads the complete lines that are new. A resumed run may have cut the file: then all of it."""
        try:
            stat = self.path.stat()
            with self.path.open("rb") as file:
                if (stat.st_ino, file.read(len(self._head))) != (self._inode, self._head):
                    self._forget()
                if stat.st_size < self._offset:
                    self._forget()
                file.seek(self._offset)
                new = file.read()
        except OSError:
            return
        whole = new[: new.rfind(b"\n") + 1]
        if whole:
            for line in whole.splitlines():
                self._add(line)
            self._inode, self._offset = stat.st_ino, self._offset + len(whole)
            self._head = self._head or whole[:200]
            self.generation += 1

    def _add(self, line: bytes) -> None:
        row = parse(line)
        step = row.get("step") if row else None
        if row is None or not isinstance(step, int):
            return
        kept = self._rows.setdefault(step, {})
        for name, value in row.items():
            if name == "time":
                self.time = max(self.time, float(value)) if isinstance(value, int | float) else self.time
            elif name != "step" and isinstance(value, int | float) and math.isfinite(value):
                kept[name] = value

    @property
    def last(self) -> int | None:
        """The last step with a line."""
        return max(self._rows, default=None)

    def columns(self) -> dict[str, Any]:
        """``steps`` in ascending order and ``values``: name -> a number or ``None`` for each of them."""
        steps = sorted(self._rows)
        every = -(-len(steps) // POINTS) or 1
        if every > 1:
            steps = [
                s for i, s in enumerate(steps) if i % every == 0 or "eval_pass@1" in self._rows[s] or s == steps[-1]
            ]
        names = dict.fromkeys(name for step in steps for name in self._rows[step])
        values = {name: [_short(self._rows[step].get(name)) for step in steps] for name in names}
        return {"steps": steps, "every": every, "values": values}


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")
