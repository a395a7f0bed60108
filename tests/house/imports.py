"""Who imports whom in the package, read from the source; no module is imported for it."""

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "extra_jax"

When = Literal["top", "typing", "late"]


@dataclass(frozen=True)
class Import:
    """One module of the package imports another.

    Attributes:
        importer: Dotted name.
        imported: Dotted name.
        when: ``top`` when the module is loaded, ``typing`` under ``TYPE_CHECKING``, ``late`` inside a function.
    """

    importer: str
    imported: str
    when: When


def modules() -> dict[str, Path]:
    """Dotted name -> file, of every module of the package."""
    names = {}
    for path in PACKAGE.rglob("*.py"):
        dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        names[dotted.removesuffix(".__init__")] = path
    return names


def imports() -> list[Import]:
    """Every import of the package from itself."""
    known = modules()
    return [
        Import(importer, imported, when)
        for importer, path in known.items()
        for imported, when in _statements(ast.parse(path.read_text(encoding="utf-8")), known, "top")
    ]


def _statements(node: ast.AST, known: Mapping[str, Path], when: When) -> Iterator[tuple[str, When]]:
    for child in ast.iter_child_nodes(node):
        inside = when
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            inside = "late"
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            inside = "typing"
        if isinstance(child, ast.Import):
            names = [alias.name for alias in child.names]
        elif isinstance(child, ast.ImportFrom):
            if child.level:
                raise AssertionError(f"relative import: {ast.unparse(child)}; write the whole name")
            dotted = [f"{child.module}.{alias.name}" for alias in child.names]
            names = [name if name in known else child.module for name in dotted]
        else:
            names = []
        yield from ((name, when) for name in names if name in known)
        yield from _statements(child, known, inside)


def room(module: str) -> str:
    """``extra_jax.rollout.engine`` -> ``rollout``; ``extra_jax`` itself is ``front``."""
    return module.split(".")[1] if "." in module else "front"


def circles(found: list[Import]) -> list[list[str]]:
    """Groups of modules that need each other: strongly connected components of more than one (Tarjan, 1972)."""
    edges: dict[str, set[str]] = defaultdict(set)
    for one in found:
        edges[one.importer].add(one.imported)
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    components: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(edges[name]):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            component = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(component) > 1:
                components.append(sorted(component))

    for name in sorted(edges):
        if name not in index:
            visit(name)
    return components
