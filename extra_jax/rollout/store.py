"""The completions of earlier visits, for the next visit to begin with (docs/methods/reuse.md)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

STORE_BYTES = 2**30
"""Of a host's memory, and of a checkpoint, that completions may take: 268 million tokens."""

_GROUP_BYTES = 512  # of a group beside its tokens


def store_bytes(groups: int, samples: int, length: int) -> int:
    """Bytes of groups whose ``samples`` completions all have ``length`` tokens."""
    return groups * (_GROUP_BYTES + 4 * samples * length)


class Store:
    """The completions of groups by their noise, the oldest thrown out when there are too many.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int):
        self.limit, self.size = limit, 0
        self._groups: dict[tuple[int, int], list[np.ndarray]] = {}  # from the oldest to the newest

    def get(self, noise: tuple[int, int]) -> list[np.ndarray]:
        """The completions of a group in the order of their samples, ``[length]`` int32 each; none: not there."""
        return self._groups.get(noise, [])

    def put(self, noise: tuple[int, int], completions: Sequence[np.ndarray]) -> None:
        """Replaces the completions of a group; they are the newest then."""
        self.drop(noise)
        self._groups[noise] = [np.array(each, np.int32) for each in completions]
        self.size += _bytes(self._groups[noise])
        while self.size > self.limit:
            self.drop(next(iter(self._groups)))

    def drop(self, noise: tuple[int, int]) -> None:
        self.size -= _bytes(self._groups.pop(noise, None))

    def state(self) -> dict[str, Any]:
        groups = self._groups.values()
        completions = [each for group in groups for each in group]
        return {
            "noise": np.array([*self._groups], np.int64).reshape(-1, 2),
            "samples": np.array([len(group) for group in groups], np.int64),
            "lengths": np.array([len(each) for each in completions], np.int64),
            "tokens": np.concatenate(completions or [np.zeros(0, np.int32)]),
        }

    def restore(self, state: dict[str, Any]) -> None:
        completions = iter(np.split(state["tokens"], np.cumsum(state["lengths"])[:-1]))
        for (first, second), samples in zip(state["noise"].tolist(), state["samples"].tolist(), strict=True):
            self.put((first, second), [next(completions) for _ in range(samples)])


def _bytes(group: list[np.ndarray] | None) -> int:
    return 0 if group is None else _GROUP_BYTES + sum(each.nbytes for each in group)
