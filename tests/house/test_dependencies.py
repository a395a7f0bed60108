"""``pip install extra-jax`` brings all that the package imports, also what is imported late or by another package."""

import ast
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "extra_jax"

DISTRIBUTIONS = {"yaml": "PyYAML", "orbax": "orbax-checkpoint", "vl_convert": "vl-convert-python"}
"""Import name -> distribution, where they differ by more than ``-`` and ``_``."""

NEEDED_BY_OTHERS = {
    "jinja2": "transformers imports it when a chat template is rendered, and does not declare it",
}
COME_WITH_ANOTHER = {
    "markupsafe": "jinja2",
    "mpmath": "math-verify",
    "pydantic-core": "pydantic",
    "tokenizers": "transformers",
}
"""Imported by the package, and a declared dependency of a distribution that is declared here."""


def imported_distributions(late: bool = True) -> set[str]:
    """The third-party distributions that the modules of the package import; without ``late``, when they are loaded."""
    names = set()
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree) if late else tree.body:
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names.add(node.module)
    tops = {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"extra_jax"}
    return {normal(DISTRIBUTIONS.get(top, top)) for top in tops}


def normal(name: str) -> str:
    """The name of a distribution as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(requirements: list[str]) -> set[str]:
    return {normal(re.match(r"[\w.-]+", text)[0]) for text in requirements}


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_what_the_package_imports_is_declared():
    required = declared(project()["dependencies"])
    optional = set().union(*(declared(extra) for extra in project()["optional-dependencies"].values()))
    missing = imported_distributions() - required - optional - set(COME_WITH_ANOTHER)
    assert not missing, f"imported and not declared in pyproject.toml: {sorted(missing)}"
    assert set(COME_WITH_ANOTHER.values()) <= required


def test_what_is_imported_with_a_module_is_no_extra():
    missing = imported_distributions(late=False) - declared(project()["dependencies"]) - set(COME_WITH_ANOTHER)
    assert not missing, f"only an extra brings these, so import them where they are used: {sorted(missing)}"


def test_what_other_packages_import_at_run_time_is_declared():
    assert set(NEEDED_BY_OTHERS) <= declared(project()["dependencies"])


def test_what_is_declared_is_imported():
    unused = declared(project()["dependencies"]) - imported_distributions() - set(NEEDED_BY_OTHERS)
    assert not unused, f"declared and never imported: {sorted(unused)}"
