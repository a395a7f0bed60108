"""The store of trainer and judge as a source of completions: a row group of Parquet is a group of the page."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from extra_jax.errors import ExtraError
from extra_jax.judge import store
from extra_jax.view.groups import GROUP, Numbers, collected
from extra_jax.view.rows import Row

SCORES = store.SCORES
_BRIEF = ("uid", "group", "sample", "verdict", "stop_reason", "problem", "text", "answer", "segment_tokens")


class Judged:
    """``rollouts/*.parquet`` of a store, with the scores and replies of one judge.

    Args:
        judge: folder of ``scores/``; ``None``: nobody has judged yet.
    """

    def __init__(self, folder: Path, judge: str | None):
        self.folder, self.judge = folder, judge

    def files(self) -> dict[int, Path]:
        """Round and part as a number: parts of round 2 are 20000, 20001, ..."""
        files: dict[int, Path] = {}
        for path in sorted((self.folder / store.ROLLOUTS).glob("*.parquet")):
            match = re.match(r"(\d{6})-", path.name)
            start = int(match[1]) * 10_000 if match else 0
            files[next(step for step in range(start, start + len(files) + 1) if step not in files)] = path
        return files

    def scan(self, path: Path, uids: Numbers) -> tuple[np.ndarray, int]:
        try:
            part = store.Part(epath.Path(path))
            rows = part.by_group([name for name in _BRIEF if name not in ("text", "problem")])
        except (pa.ArrowException, ExtraError):  # no footer: a copy under way, or a part of somebody else
            return np.array([], GROUP), 1
        shown = (
            (number, 0, _as_record(row, place=number * 10_000)) for number, group in enumerate(rows) for row in group
        )
        groups = collected(shown, uids)
        return groups, 0

    def rows(self, block: Any, group: np.void, first: int, most: int) -> list[Row]:
        number = int(group["offset"])
        rows = store.Part(epath.Path(block.path)).read(groups=[number])[first : first + most]
        units = self._units(block.path, {row["rollout_id"] for row in rows})
        return [_as_record(row, number * 10_000) | {"judge": units.get(row["rollout_id"], [])} for row in rows]

    def briefs(self, block: Any, group: np.void) -> Iterator[Row]:
        number = int(group["offset"])
        rows = store.Part(epath.Path(block.path)).read(_BRIEF, [number])
        return (_as_record(row, number * 10_000) for row in rows)

    def _units(self, path: Path, ids: set[str]) -> dict[str, list[Row]]:
        """What the judge said of each rollout, by segment; of a unit that was tried again, the last reply."""
        units: dict[str, dict[int, Row]] = {}
        if self.judge is not None:
            for part in store.parts(self.folder, f"{store.SCORES}/{self.judge}", path.name.removesuffix(".parquet")):
                table = pq.read_table(str(part.path), filters=[("rollout_id", "in", list(ids))])
                for row in table.to_pylist():
                    shown = {name: row.get(name) for name in ("segment", "status", "score", "reply")}
                    units.setdefault(row["rollout_id"], {})[int(row["segment"] or 0)] = shown
        return {name: [own[segment] for segment in sorted(own)] for name, own in units.items()}


def _as_record(row: Row, place: int) -> Row:
    """A row of the store with the names of a training's records."""
    renamed = {"problem": "prompt", "text": "completion", "token_ids": "completion_ids", "answer": "reference_answer"}
    kept = ("uid", "group", "verdict", "stop_reason", "logprobs", "entropies", "segment_tokens", "segment_chars")
    ends = row.get("segment_tokens") or [0]
    return {
        "rollout_id": place + int(row["sample"]),
        "length": ends[-1],
        "reward": float(row.get("verdict") == "correct"),
        **{new: row[old] for old, new in renamed.items() if old in row},
        **{name: row[name] for name in (*kept, "reference") if name in row},
    }
