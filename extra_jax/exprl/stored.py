"""Rollouts of a store by group: an index in memory, tokens from the disk when their turn comes."""

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from extra_jax.data.problem import Problem
from extra_jax.errors import ExtraError
from extra_jax.judge import store

INDEX = ("rollout_id", "group", "uid", "sample", "policy", "text_sha", "segment_tokens", "stop_reason", "verdict")
"""What is read of every rollout: enough to join it with its scores and to compute its advantage."""

_PROBLEM = ("group", "uid", "problem", "answer", "source")


class StoredGroups:
    """The groups of some parts of rollouts. A group that stands in two parts is taken once: both are the same.

    Args:
        group_size: Rollouts that every group must have.
        prefix: Only the parts whose names begin with this.

    Attributes:
        groups: Group -> its rows with the columns ``INDEX``, in a fixed order.

    Raises:
        ExtraError: no rollouts, or a group of another size.
    """

    def __init__(self, folder: epath.Path, group_size: int, prefix: str = ""):
        self.groups: dict[str, list[dict[str, Any]]] = {}
        self._places: dict[str, tuple[store.Part, int]] = {}
        for part in store.rollout_parts(folder, prefix):
            for number, rows in enumerate(part.by_group(INDEX)):
                group = rows[0]["group"]
                if len(rows) != group_size:
                    raise ExtraError(
                        f"{part.path}: {len(rows)} rollouts of {group}, but train.num_generations={group_size}; set "
                        "it to what the rollouts were sampled with"
                    )
                if group not in self.groups:
                    self.groups[group], self._places[group] = rows, (part, number)

    def problems(self) -> list[Problem]:
        """One problem a group, whose uid is the group; without its reference, which training must not see."""
        by_group = {}
        for part in dict.fromkeys(part for part, _ in self._places.values()):
            for row in part.read(_PROBLEM):
                by_group[row["group"]] = Problem(row["group"], row["problem"], row["answer"], source=row["source"])
        return [by_group[group] for group in self.groups]

    def read(self, groups: Sequence[str]) -> list[Mapping[str, Any]]:
        """The whole rows of some groups, in their order."""
        rows: list[Mapping[str, Any]] = []
        for group in groups:
            part, number = self._places[group]
            rows += part.read(groups=[number])
        return rows
