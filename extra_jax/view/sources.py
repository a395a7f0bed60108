"""Where completions come from: the records of a training, the rows of an evaluation, the store of a judge.

A source is read in blocks, one for each file. Of a block, only what ``groups.GROUP`` holds is kept in memory; rows are
read again from their place when somebody looks at them. A file that appears, changes or goes is noticed by its size and
time, so the page of a running job grows, and that of a resumed one forgets the steps that run again.
"""

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from extra_jax.view.groups import Numbers, collected
from extra_jax.view.rows import Row, brief, lines, parse, span, text, whole

Signature = tuple[int, int, int]


class Block(NamedTuple):
    """One file.

    Attributes:
        groups: ``[N]`` of ``GROUP``.
        damaged: lines that cannot be read.
    """

    signature: Signature
    path: Path
    groups: np.ndarray
    damaged: int = 0


class Format(Protocol):
    """How the files of a source are found and read."""

    def files(self) -> dict[int, Path]:
        """Step -> file, of all that are there now."""
        ...

    def scan(self, path: Path, uids: Numbers) -> tuple[np.ndarray, int]:
        """``[N]`` groups of a file, and how many lines cannot be read."""
        ...

    def rows(self, block: Block, group: np.void, first: int, most: int) -> list[Row]:
        """At most ``most`` whole rows of a group from its row ``first`` on."""
        ...

    def briefs(self, block: Block, group: np.void) -> Iterator[Row]:
        """The rows of a group, perhaps without the numbers of tokens."""
        ...


class Lines:
    """``step_000012.jsonl`` in a folder: records of a training, or of the evaluations of one benchmark."""

    def __init__(self, folder: Path):
        self.folder = folder

    def files(self) -> dict[int, Path]:
        named = ((re.fullmatch(r"step_(\d{1,9})\.jsonl", path.name), path) for path in self.folder.glob("step_*.jsonl"))
        return {int(match[1]): path for match, path in named if match and path.is_file()}

    def scan(self, path: Path, uids: Numbers) -> tuple[np.ndarray, int]:
        damaged = 0

        def rows() -> Iterator[tuple[int, int, Row]]:
            nonlocal damaged
            for offset, line in lines(path):
                row = brief(line)
                if row is not None and row.get("uid") is not None:
                    yield offset, len(line), row
                elif line.strip():
                    damaged += line.endswith(b"\n")  # one without an end is being written

        groups = collected(rows(), uids)  # of the rows, only those of one group are in memory
        return groups, damaged

    def rows(self, block: Block, group: np.void, first: int, most: int) -> list[Row]:
        parsed = (row for line in self._span(block, group) if (row := parse(line)) is not None)
        return list(islice(parsed, first, first + most))

    def briefs(self, block: Block, group: np.void) -> Iterator[Row]:
        return (row for line in self._span(block, group) if (row := brief(line)) is not None)

    @staticmethod
    def _span(block: Block, group: np.void) -> list[bytes]:
        return span(block.path, int(group["offset"]), int(group["size"]))


class Source:
    """Completions of one kind, indexed a file at a time.

    Attributes:
        name: as in links: ``training``, ``eval/math500``, ``judge/3f2a...``.
        title: as people read it.
        blocks: step -> what is indexed of it.
        pending: steps whose file is not indexed yet.
        generation: grows with every change.
    """

    def __init__(self, name: str, title: str, form: Format):
        self.name, self.title, self.form = name, title, form
        self.blocks: dict[int, Block] = {}
        self.uids = Numbers()
        self.pending: list[int] = []
        self.generation = 0
        self._files: dict[int, tuple[Path, Signature]] = {}

    def look(self) -> None:
        """Notices what has changed on disk; reads nothing."""
        self._files = {step: (path, seen) for step, path in self.form.files().items() if (seen := _signature(path))}
        for step in [step for step, block in self.blocks.items() if self._signature(step) != block.signature]:
            del self.blocks[step]
            self.generation += 1
        self.pending = sorted(self._files.keys() - self.blocks.keys())

    def read_one(self) -> bool:
        """Indexes the newest file that is pending; ``False`` where there is none."""
        if not self.pending:
            return False
        step = self.pending.pop()
        path, signature = self._files[step]
        try:
            groups, damaged = self.form.scan(path, self.uids)
        except OSError:  # it went away, or is on its way: `look` will say
            return True
        self.blocks[step] = Block(signature, path, groups, damaged)
        self.generation += 1
        return True

    @property
    def steps(self) -> list[int]:
        """Steps that have a file, ascending."""
        return sorted(self._files)

    def _signature(self, step: int) -> Signature | None:
        return self._files[step][1] if step in self._files else None

    def find(self, step: int, rollout: int) -> tuple[int, int] | None:
        """A completion as (place of its group in the block of ``step``, place in the group); ``None``: not there."""
        if step not in self.blocks:
            return None
        block = self.blocks[step]
        first = block.groups["first"]
        # Ids of a group follow each other in what we write; where they do not, the other groups are read, too.
        apart = (rollout < first) | (first + block.groups["n"] <= rollout)
        for index in np.argsort(apart, kind="stable").tolist():
            for place, row in enumerate(self.form.briefs(block, block.groups[index])):
                if whole(row.get("rollout_id")) == rollout:
                    return index, place
        return None

    def children(self, step: int, first: int, n: int) -> list[tuple[int, int]]:
        """Groups that continue a completion of a group, as (step, place in its block)."""
        return [
            (later, int(index))
            for later, block in sorted(self.blocks.items())
            for index in np.flatnonzero(
                (block.groups["parent_step"] == step)
                & (block.groups["parent_id"] >= first)
                & (block.groups["parent_id"] < first + n)
            )
        ]

    def visits(self, uid: str) -> list[tuple[int, int]]:
        """All groups of a problem, as (step, place in its block), in the order of steps."""
        number = self.uids.get(uid)
        return [
            (step, int(index))
            for step, block in sorted(self.blocks.items())
            for index in np.flatnonzero(block.groups["uid"] == number)
        ]

    def entry(self, step: int, index: int) -> dict[str, Any]:
        """A group as the page's list shows it."""
        group = self.blocks[step].groups[index]
        bonus, parent = float(group["bonus"]), int(group["parent_step"])
        return {
            "step": step,
            "ref": f"{step}:{int(group['first'])}",
            "uid": self.uids.names[int(group["uid"])],
            **{name: int(group[name]) for name in ("n", "correct", "truncated", "shortest", "longest", "verdicts")},
            "reward": round(float(group["reward"]), 4),
            "bonus": None if np.isnan(bonus) else round(bonus, 6),
            "parent": None if parent < 0 else f"{parent}:{int(group['parent_id'])}",
        }

    def holds(self, step: int, index: int, q: str) -> bool:
        """Whether a text (in small letters) stands in a group's problem, prompt or completions."""
        block = self.blocks[step]
        group = block.groups[index]
        if q in self.uids.names[int(group["uid"])].lower():
            return True
        return any(
            q in text(row.get(name)).lower()
            for row in self.form.briefs(block, group)
            for name in ("prompt", "completion", "answer", "group")
        )

    def damaged(self) -> int:
        """Lines that cannot be read, in all that is indexed."""
        return sum(block.damaged for block in self.blocks.values())


def _signature(path: Path) -> Signature | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
