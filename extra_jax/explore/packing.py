"""Ragged things as a few arrays, for checkpoints: a checkpoint of many small arrays is slow to write."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np


def pack_texts(texts: Sequence[str]) -> np.ndarray:
    """Texts as one array of bytes."""
    return np.frombuffer(json.dumps(list(texts)).encode(), np.uint8)


def unpack_texts(packed: np.ndarray) -> list[str]:
    """What ``pack_texts`` was given."""
    return json.loads(np.asarray(packed, np.uint8).tobytes())


def split(values: Any, sizes: Sequence[int]) -> list[Any]:
    """Consecutive parts of the given sizes."""
    ends = np.cumsum(np.asarray(sizes, np.int64)).tolist()
    return [values[end - size : end] for size, end in zip(np.asarray(sizes).tolist(), ends, strict=True)]
