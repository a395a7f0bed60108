"""Calling a reward function that somebody else wrote, in a worker or here, and checking what it returns.

This module is all that a worker needs besides the function: nothing here imports jax.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

from extra_jax.doors import load_object

Returned = list[float | None]
"""One number for each completion; ``None`` says nothing about it."""


@functools.cache
def loaded(spec: str) -> Callable[..., Any]:
    """The function of ``path/file.py:name`` or ``module:name``, loaded once: before workers are forked."""
    return load_object(spec, "reward.functions")


def call_task(spec: str, arguments: Mapping[str, Any], count: int) -> Returned:
    """What a worker does: calls the function with keyword ``arguments`` about ``count`` completions."""
    return checked(loaded(spec)(**arguments), count)


def checked(returned: Any, count: int) -> Returned:
    """What a function returned, as ``count`` numbers.

    Raises:
        TypeError: not a list of numbers and ``None``.
        ValueError: another length, NaN or infinity.
    """
    if isinstance(returned, str | Mapping) or not hasattr(returned, "__iter__"):
        raise TypeError(f"returned {type(returned).__name__}, not a list with a number or None for each completion")
    values = list(returned)
    if len(values) != count:
        raise ValueError(f"returned {len(values)} values for {count} completions")
    return [None if value is None else _number(place, value) for place, value in enumerate(values)]


def _number(place: int, value: Any) -> float:
    if isinstance(value, str | bytes) or not hasattr(value, "__float__"):
        raise TypeError(f"value {place} is {value!r:.60}, neither a number nor None")
    if not math.isfinite(number := float(value)):
        raise ValueError(f"value {place} is {number}; return None where there is nothing to say")
    return number
