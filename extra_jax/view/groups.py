"""Groups of completions in numbers: what a list of problems shows and what filters look at, 72 bytes a group."""

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from extra_jax.answers.verdict import Verdict
from extra_jax.view.rows import Row, number, reference, text, whole

VERDICTS = tuple(verdict.value for verdict in Verdict)

_MOST = 4096  # completions of a group, whoever wrote the file

GROUP = np.dtype(
    [
        ("uid", "i4"),  # number of the problem
        ("first", "i8"),  # rollout_id of the first completion
        ("offset", "i8"),  # of its row in the file; number of the row group in a Parquet part
        ("size", "i8"),  # bytes of the rows of the group
        ("n", "i4"),  # completions
        ("correct", "i4"),
        ("truncated", "i4"),
        ("verdicts", "i4"),  # one bit for each of VERDICTS
        ("reward", "f4"),  # mean
        ("bonus", "f4"),  # the largest; NaN where there is none
        ("shortest", "i4"),  # tokens
        ("longest", "i4"),
        ("parent_step", "i4"),  # of the attempt whose beginning was kept; -1: a plain prompt
        ("parent_id", "i8"),
    ]
)


class Wanted(NamedTuple):
    """A filter of groups; what is ``None`` or empty lets everything through.

    Attributes:
        outcome: ``mixed``, ``solved`` (all correct), ``unsolved`` (none), or one of ``VERDICTS`` that some completion
            has.
        bonus: some completion has a positive bonus.
        guided: it has a prefix (``yes``) or none (``no``).
        shortest, longest: some completion has so many tokens.
        q: text that prompt, identity or a completion holds, in any case.
    """

    step: int | None = None
    outcome: str = ""
    bonus: bool = False
    guided: str = ""
    truncated: bool = False
    shortest: int | None = None
    longest: int | None = None
    q: str = ""

    def chosen(self, step: int, groups: np.ndarray) -> np.ndarray:
        """``[N]`` bool, without regard to ``q``."""
        keep = np.full(len(groups), self.step is None or step == self.step)
        n, correct = groups["n"], groups["correct"]
        if self.outcome in VERDICTS:
            keep &= (groups["verdicts"] & bit(self.outcome)) != 0
        elif self.outcome:
            keep &= {"mixed": (correct > 0) & (correct < n), "solved": correct == n, "unsolved": correct == 0}[
                self.outcome
            ]
        if self.bonus:
            keep &= groups["bonus"] > 0
        if self.guided:
            keep &= (groups["parent_step"] >= 0) == (self.guided == "yes")
        if self.truncated:
            keep &= groups["truncated"] > 0
        if self.shortest is not None:
            keep &= groups["longest"] >= self.shortest
        if self.longest is not None:
            keep &= groups["shortest"] <= self.longest
        return keep


def bit(verdict: Any) -> int:
    """The bit of a verdict; 0 for an unknown one."""
    return 1 << VERDICTS.index(verdict) if verdict in VERDICTS else 0


class Numbers:
    """Gives every problem a number, which is shorter than its name."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._numbers: dict[str, int] = {}

    def __getitem__(self, name: str) -> int:
        if name not in self._numbers:
            self._numbers[name] = len(self.names)
            self.names.append(name)
        return self._numbers[name]

    def get(self, name: str) -> int:
        """-1 for a problem that was never seen."""
        return self._numbers.get(name, -1)


def collected(rows: Iterable[tuple[int, int, Row]], uids: Numbers) -> np.ndarray:
    """``[N]`` the groups of a file: neighbours of one problem that continue the same beginning.

    Args:
        rows: offset, bytes and the brief row of each completion, in the order of the file.
    """
    return np.array([_entry(members, uids) for members in _adjacent(rows)], GROUP)


def _adjacent(rows: Iterable[tuple[int, int, Row]]) -> Iterator[list[tuple[int, int, Row]]]:
    members: list[tuple[int, int, Row]] = []
    before = None
    for one in rows:
        key = text(one[2].get("uid")), one[2].get("parent") if isinstance(one[2].get("parent"), str) else None
        if members and (key != before or len(members) == _MOST):
            yield members
            members = []
        members.append(one)
        before = key
    if members:
        yield members


def _entry(members: list[tuple[int, int, Row]], uids: Numbers) -> tuple[Any, ...]:
    rows = [row for _, _, row in members]
    lengths = [length(row) for row in rows]
    bonuses = [number(row.get("bonus"), math.nan) for row in rows]
    verdicts = 0
    for row in rows:
        verdicts |= bit(row.get("verdict"))
    return (
        uids[text(rows[0].get("uid"))],
        whole(rows[0].get("rollout_id")),
        members[0][0],
        sum(size for _, size, _ in members),
        len(rows),
        sum(row.get("verdict") == "correct" for row in rows),
        sum(row.get("stop_reason") == "length" for row in rows),
        verdicts,
        math.fsum(number(row.get("reward")) for row in rows) / len(rows),
        max((value for value in bonuses if math.isfinite(value)), default=math.nan),
        min(lengths),
        max(lengths),
        *reference(rows[0].get("parent")),
    )


def length(row: Row) -> int:
    """Tokens that the model wrote, of a brief row or of a whole one."""
    for name in ("length", "completion_ids", "token_ids"):
        value = row.get(name)
        if value is not None:
            return len(value) if isinstance(value, list) else whole(value)
    return 0
