"""Counts of the house: ``python -m tests.house.count`` prints settings, lines of each room, long functions, circles."""

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests import each other from their folder

from house.imports import PACKAGE, circles, imports, modules, room


def settings(model: type[BaseModel], prefix: str = "", counted: set[type] | None = None) -> list[str]:
    """Dotted keys of the leaves of a configuration.

    A table with free keys is one leaf, and so is a section of a kind that was counted before (``eval.data`` is like
    ``data``): nothing new has to be learnt for it.
    """
    keys, counted = [], set() if counted is None else counted
    for name, field in model.model_fields.items():
        sections = [section for section in _sections(field.annotation) if section not in counted]
        counted |= set(sections)
        inner = [key for section in sections for key in settings(section, f"{prefix}{name}.", counted)]
        keys += inner or [f"{prefix}{name}"]
    return keys


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    """The sections that a field holds, directly or optionally; not those that are values of a table."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif not hasattr(annotation, "__origin__"):  # a union, not dict[str, Section]
        for argument in get_args(annotation):
            yield from _sections(argument)


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def room_lines() -> Counter[str]:
    """Lines of Python in each room."""
    count: Counter[str] = Counter()
    for name, path in modules().items():
        count[room(name)] += lines(path)
    return count


def functions() -> dict[str, int]:
    """``module.function`` -> lines, of every function of the package."""
    return {
        f"{name}.{node.name}": node.end_lineno - node.lineno + 1
        for name, path in modules().items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def longest_loop(path: Path) -> int:
    """Lines of the longest ``for`` or ``while`` of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return max((n.end_lineno - n.lineno + 1 for n in ast.walk(tree) if isinstance(n, ast.For | ast.While)), default=0)


def main() -> None:
    """Prints the table."""
    from extra_jax.config import Config

    keys = settings(Config)
    print(f"settings: {len(keys)}")
    for section, count in Counter(key.partition(".")[0] for key in keys).most_common():
        print(f"  {count:>6}  {section}")
    count = room_lines()
    print(f"lines: {sum(count.values()):,}")
    for name, number in count.most_common():
        print(f"  {number:>6,}  {name}")
    train = PACKAGE / "train.py"
    print(f"train.py: {lines(train)} lines, its longest loop {longest_loop(train)}")
    print("files of more than 400 lines:")
    for name, path in sorted(modules().items()):
        if lines(path) > 400:
            print(f"  {lines(path):>6}  {name}")
    print("functions of more than 60 lines:")
    for name, number in sorted(functions().items(), key=lambda item: -item[1]):
        if number > 60:
            print(f"  {number:>6}  {name}")
    found = imports()
    print(f"circles: {circles([one for one in found if one.when != 'late' and one.imported != 'extra_jax'])}")
    print("imports inside functions, from another room:")
    for one in found:
        if one.when == "late" and room(one.importer) not in ("cli", room(one.imported)):
            print(f"  {one.importer} -> {one.imported}")


if __name__ == "__main__":
    main()
