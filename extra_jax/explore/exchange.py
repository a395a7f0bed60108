"""What the processes tell each other in a step, so that all of them hold the same exploration state."""

import pickle
import zlib
from typing import Any

import numpy as np

from extra_jax.errors import ExtraError
from extra_jax.parallel.processes import allgather


def gather_lists(items: list[Any]) -> list[Any]:
    """The lists of all processes, joined in process order. For plain host values; all processes call it together."""
    payload = np.frombuffer(pickle.dumps(items), np.uint8)
    sizes = allgather(np.array([len(payload)], np.int64))
    padded = np.zeros((1, sizes.max()), np.uint8)
    padded[0, : len(payload)] = payload
    rows = allgather(padded)
    return [item for row, size in zip(rows, sizes, strict=True) for item in pickle.loads(row[:size].tobytes())]


def check_lockstep(state: str, step: int) -> None:
    """Stops a run whose processes no longer agree on what exploration does next.

    Args:
        state: a text that is the same where they agree.
        step: for the message.
    """
    digests = allgather(np.array([zlib.crc32(state.encode())], np.int64))
    if (digests != digests[0]).any():
        raise ExtraError(
            f"step {step}: the processes disagree on the exploration state (digests {digests.tolist()}); are they on "
            "unequal hardware or code? Continue from the last checkpoint on equal hosts"
        )
