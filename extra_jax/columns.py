"""Columns of rows that belong together: arrays, lists, and mappings of these by name."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np


def take(column: Any, rows: np.ndarray) -> Any:
    """Only these rows, in this order."""
    if isinstance(column, Mapping):
        return {name: take(values, rows) for name, values in column.items()}
    return column[rows] if isinstance(column, np.ndarray) else [column[row] for row in rows]


def join(parts: Sequence[Any]) -> Any:
    """One after the other."""
    if isinstance(parts[0], Mapping):
        return {name: join([part[name] for part in parts]) for name in parts[0]}
    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else list(chain.from_iterable(parts))
