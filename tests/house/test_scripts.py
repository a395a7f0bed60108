"""What the scripts beside the package import is there: they are not run by the suite, and a rename would break them."""

import ast
import importlib
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [path for folder in ("benchmarks", "scripts", "docs") for path in sorted((ROOT / folder).rglob("*.py"))]


def names(path: Path) -> list[tuple[str, str]]:
    """Modules of ours and the names that a file wants of them."""
    imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    own = [
        node for node in imports if not node.level and (node.module or "").split(".")[0] in ("extra_jax", "benchmarks")
    ]
    return [(str(node.module), alias.name) for node in own for alias in node.names]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_script_imports_is_there(path: Path) -> None:
    for module, name in names(path):
        if module.startswith("benchmarks"):
            source = ROOT / f"{module.replace('.', '/')}.py"
            assert source.is_file() or source.with_suffix("").is_dir(), module
            continue
        there = hasattr(importlib.import_module(module), name) or find_spec(f"{module}.{name}") is not None
        assert there, f"{module} has no {name}"
