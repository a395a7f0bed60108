"""YAML as a tree of plain values that a configuration can hold, and back."""

import datetime
import itertools
import math
import re
from collections.abc import Iterator
from typing import Any

import yaml

from extra_jax.errors import ExtraError

_MOST_VALUES = 100_000  # of a tree; ten aliases of ten aliases of ... are a few lines and more than any memory
_DEEPEST = 64
_MOST_BRACKETS = 500  # open at once, also in text
_LARGEST_NUMBER = 2**53  # whole numbers beyond it are not exact in JSON and in float64


class _Loader(yaml.SafeLoader):
    """YAML 1.1 in which ``1e-6`` is a number, as in YAML 1.2, and a key that stands twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} stands twice; remove one", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """Puts text in quotes that ``_Loader`` would read as a number."""


for kind in (_Loader, _Dumper):
    yaml.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"),
        list("-+0123456789"),
        kind,
    )


def parse_yaml(text: str, where: str) -> Any:
    """The value of YAML text; ``where`` starts every message.

    Raises:
        ExtraError: not YAML, a key that stands twice, nested too deep, an impossible date or number.
    """
    try:
        if _bracket_depth(text) > _MOST_BRACKETS:  # the scanner would take minutes before it fails
            raise RecursionError
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except RecursionError as error:
        raise ExtraError(f"{where}: nested too deep to be read") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ExtraError(f"{where}: not valid YAML: {error}") from error


def _bracket_depth(text: str) -> int:
    steps = ((char in "[{") - (char in "]}") for char in re.findall(r"[\[\]{}]", text))
    return max(itertools.accumulate(steps), default=0)


def dump_yaml(tree: Any) -> str:
    """YAML that ``parse_yaml`` reads back unchanged."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False)


def unusable_values(tree: Any) -> list[str]:
    """What no setting may hold, also where a table takes free keys, as ``key: reason`` lines.

    Raises:
        ExtraError: the tree contains itself, or becomes too large once its aliases are written out.
    """
    left = _MOST_VALUES
    found = []
    for key, reason in _walk(tree, ()):
        left -= 1
        if left == 0:
            raise ExtraError(f"more than {_MOST_VALUES:,} values once every alias (*name) is written out")
        if reason:
            found.append(f"{key}: {reason}")
    return found


def _walk(value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, str | None]]:
    key = ".".join(path)
    yield key, _unusable(value)
    if len(path) > _DEEPEST:
        raise ExtraError(f"{'.'.join(path[:4])}...: nested more than {_DEEPEST} deep; does an anchor contain itself?")
    if isinstance(value, dict):
        for name, inner in value.items():
            if not isinstance(name, str):
                yield key, f"the key {name!r} is no text; put it in quotes"
            else:
                yield from _walk(inner, (*path, name))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _walk(inner, (*path, str(index)))


def _unusable(value: Any) -> str | None:
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is not a finite number"
    if isinstance(value, int | float) and abs(value) > _LARGEST_NUMBER:
        return "a number beyond 2^53"
    if isinstance(value, datetime.date):
        return f"{value} is a date; put text in quotes"
    if isinstance(value, bytes | set):
        return f"{type(value).__name__} is no value of a setting"
    if isinstance(value, str) and ("\0" in value or any("\ud800" <= char <= "\udfff" for char in value)):
        return f"{value[:100]!a} is no text: it holds a zero byte or half of a surrogate pair (not UTF-8?)"
    return None
