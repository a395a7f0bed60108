"""A run as it is viewed: its settings, its numbers, and its completions from all sources."""

import hashlib
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from extra_jax.errors import ExtraError
from extra_jax.telemetry.files import EVALS_FOLDER, METRICS_FILE, ROLLOUTS_FOLDER, local_run_dir
from extra_jax.view.curves import Curves
from extra_jax.view.groups import Wanted
from extra_jax.view.rows import Row, text
from extra_jax.view.sources import Lines, Source
from extra_jax.view.tokens import Pieces, read_settings, setting

MOST_RUNS = 24
_ROWS = 16  # completions of one answer
_SECONDS = 0.7  # that one answer to a search may take


class Viewed:
    """One run directory, or one store of rollouts and scores.

    Attributes:
        name: the last part of its path, made unique by the page.
        sources: by name.
    """

    def __init__(self, directory: Path):
        self.directory, self.name = directory, directory.resolve().name
        self.tree, arm, self.fault = read_settings(directory)
        self.arm = hashlib.sha256(arm.encode()).hexdigest()[:12]
        self.curves = Curves(directory)
        self.pieces = Pieces(self.tree, directory)
        self.sources: dict[str, Source] = {}
        self.look()

    def look(self) -> None:
        """Notices what is new on disk."""
        self.curves.look()
        for name, title, form in self._places():
            if name not in self.sources:
                self.sources[name] = Source(name, title, form)
        for source in self.sources.values():
            source.look()

    def _places(self) -> list[tuple[str, str, Any]]:
        places: list[tuple[str, str, Any]] = []
        if any((self.directory / ROLLOUTS_FOLDER).glob("step_*.jsonl")):
            places.append(("training", "training", Lines(self.directory / ROLLOUTS_FOLDER)))
        for folder in sorted((self.directory / EVALS_FOLDER).glob("*")):
            if folder.is_dir():
                places.append((f"eval/{folder.name}", f"evaluation: {folder.name}", Lines(folder)))
        stored = store_folder(self.directory, self.tree)
        if stored is not None:
            from extra_jax.view.judged import SCORES, Judged  # late: few runs need Parquet

            judges: list[str | None] = [path.name for path in sorted((stored / SCORES).glob("*")) if path.is_dir()]
            for judge in judges or [None]:
                title = "judged rollouts" if len(judges) == 1 else f"judged by {judge}" if judge else "stored rollouts"
                places.append((f"judge/{judge or 'none'}", title, Judged(stored, judge)))
        return places

    def about(self) -> dict[str, Any]:
        """What the page says of the run before anything is opened."""
        return {
            "name": self.name,
            "path": str(self.directory),
            "seed": setting(self.tree, "run", "seed"),
            "arm": self.arm,
            "arm_name": re.sub(r"[-_.]*(?:seed|s)?[-_.]?\d+$", "", self.name) or self.name,
            "max_steps": setting(self.tree, "train", "max_steps"),
            "fault": self.fault,
            "sources": [{"name": s.name, "title": s.title, "steps": s.steps} for s in self.sources.values() if s.steps],
        }

    def state(self) -> dict[str, Any]:
        """What changes while the run goes on, small enough to be asked for every two seconds."""
        return {
            "curves": self.curves.generation,
            "last": self.curves.last,
            "age": round(time.time() - self.curves.time, 1) if self.curves.time else None,
            "no_tokens": self.pieces.missing,
            "sources": {
                name: {
                    "generation": source.generation,
                    "files": len(source.steps),
                    "pending": len(source.pending),
                    "damaged": source.damaged(),
                }
                for name, source in self.sources.items()
            },
        }

    def groups(self, source: Source, wanted: Wanted, after: tuple[int, int] | None, most: int) -> dict[str, Any]:
        """Groups that pass a filter, the newest step first.

        Args:
            after: the (step, place) at which the answer before ended.

        Returns:
            ``groups``; ``next``: where to go on, ``None`` at the end; ``total``: how many pass, unknown in a search.
        """
        chosen: list[dict[str, Any]] = []
        total, following, end = 0, None, time.monotonic() + _SECONDS
        for step, block in sorted(source.blocks.items(), reverse=True):
            for index in wanted.chosen(step, block.groups).nonzero()[0].tolist():
                total += 1
                if after is not None and (-step, index) <= (-after[0], after[1]):
                    continue
                if following is not None:
                    continue
                if not wanted.q or source.holds(step, index, wanted.q.lower()):
                    chosen.append(source.entry(step, index))
                if len(chosen) == most or (wanted.q and time.monotonic() > end):
                    following = f"{step}:{index}"
            if wanted.q and following is not None:
                break
        return {"groups": chosen, "next": following, "total": None if wanted.q else total}

    def group(self, source: Source, step: int, rollout: int, first: int) -> dict[str, Any] | None:
        """A group with its completions, what it continues and what continues it; ``None``: there is none."""
        place = source.find(step, rollout)
        if place is None:
            return None
        index = place[0]
        block = source.blocks[step]
        group, entry = block.groups[index], source.entry(step, index)
        rows = [self.shown(row, step) for row in source.form.rows(block, group, first, _ROWS)]
        ids = int(group["first"]), int(group["n"])
        return {
            "group": entry,
            "rows": rows,
            "first": first,
            "parent": self.relative(source, entry["parent"]) if entry["parent"] else None,
            "children": [source.entry(*child) for child in source.children(step, *ids)[:100]],
            "visits": [source.entry(*visit) for visit in source.visits(entry["uid"])[-400:]],
        }

    def relative(self, source: Source, ref: str) -> dict[str, Any]:
        """One completion by its reference, with the entry of its group; or the reason why it cannot be shown."""
        step, rollout = (int(part) for part in ref.split(":"))
        place = source.find(step, rollout)
        if place is None:
            waiting = step in source.pending
            why = "is not indexed yet" if waiting else "was not recorded (logging.rollouts_every), or is gone"
            return {"missing": f"Completion {ref} {why}."}
        index, number = place
        block = source.blocks[step]
        rows = source.form.rows(block, block.groups[index], number, 1)
        return {"group": source.entry(step, index), "row": self.shown(rows[0], step)}

    def shown(self, row: Row, step: int) -> Row:
        """A row as the page reads it: with the text of each token, where the tokens give the text."""
        pieces = self.pieces(row.get("completion_ids")) or []
        prefix = self.pieces(row.get("prefix_ids")) if row.get("prefix_ids") else []
        kept = "".join(piece or "" for piece in prefix or [])
        completion = text(row.get("completion"))
        aligned = bool(pieces) and completion == kept + "".join(piece or "" for piece in pieces)
        hidden = ("prompt_ids", "completion_ids", "prefix_ids")
        return {
            **{name: value for name, value in row.items() if name not in hidden},
            "ref": f"{step}:{row.get('rollout_id')}",
            "length": len(row["completion_ids"]) if "completion_ids" in row else row.get("length"),
            "pieces": pieces if aligned else None,
            "kept": kept if aligned else "",
        }


def store_folder(directory: Path, tree: dict[str, Any]) -> Path | None:
    """The store of a run, where it has one on this disk; a store is its own."""
    named = setting(tree, "exprl", "store")
    for folder in (directory, directory / "store", *([Path(named)] if isinstance(named, str) else [])):
        if any((folder / ROLLOUTS_FOLDER).glob("*.parquet")):
            return folder
    return None


def run_directories(paths: Sequence[str]) -> list[Path]:
    """The runs in some folders; a folder that is none may hold runs.

    Raises:
        ExtraError: there is none, or there are too many.
    """
    directories: list[Path] = []
    for path in map(local_run_dir, paths):
        if not path.is_dir():
            raise ExtraError(f"{path}: there is no such folder. Give the run.dir of a run that has started.")
        inside = [path] if _is_run(path) else sorted(child for child in path.iterdir() if _is_run(child))
        if not inside:
            raise ExtraError(
                f"{path}: no run, and no folder of runs: neither {METRICS_FILE} nor {ROLLOUTS_FOLDER}/ is in it. Give "
                "the run.dir of a run that has started."
            )
        directories += [each for each in inside if each not in directories]
    if len(directories) > MOST_RUNS:
        raise ExtraError(f"{len(directories)} runs; one page shows {MOST_RUNS} at most. Name those to be compared.")
    return directories


def _is_run(path: Path) -> bool:
    return path.is_dir() and ((path / METRICS_FILE).is_file() or (path / ROLLOUTS_FOLDER).is_dir())
