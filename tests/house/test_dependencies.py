"""``pip install extra-jax`` brings all that the package imports, also what is imported late or by another package."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

from house.imports import imports, modules, room

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "extra_jax"

DISTRIBUTIONS = {"yaml": "PyYAML", "orbax": "orbax-checkpoint", "vl_convert": "vl-convert-python"}
"""Import name -> distribution, where they differ by more than ``-`` and ``_``."""

NEEDED_BY_OTHERS = {
    "jinja2": "transformers imports it when a chat template is rendered, and does not declare it",
}
COME_WITH_ANOTHER = {
    "annotated-types": "pydantic",
    "huggingface-hub": "transformers",
    "markupsafe": "jinja2",
    "mpmath": "math-verify",
    "pydantic-core": "pydantic",
    "tokenizers": "transformers",
}
"""Imported by the package, and a declared dependency of a distribution that is declared here."""


WITHOUT_JAX = ("judge", "answers", "config", "errors", "files", "cli")
"""Rooms that work after ``pip install --no-deps`` of the package and what the extra `judge` lists."""


def imported_distributions(late: bool = True, paths: Iterable[Path] = ()) -> set[str]:
    """The third-party distributions that the modules of the package import; without ``late``, when they are loaded."""
    names = set()
    for path in paths or PACKAGE.rglob("*.py"):
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


def loaded_with_the_judge() -> list[Path]:
    """Files of every module that is loaded when the judge and the command line are, and of what they import late of
    their own rooms."""
    known, edges = modules(), imports()
    reached = {name for name in known if room(name) in WITHOUT_JAX and room(name) != "answers"}
    while more := {one.imported for one in edges if one.importer in reached and one.when == "top"} - reached:
        reached |= more
    return [known[name] for name in sorted(reached)]


def test_the_extra_judge_brings_all_that_the_judge_loads():
    needed = imported_distributions(late=False, paths=loaded_with_the_judge())
    missing = needed - declared(project()["optional-dependencies"]["judge"]) - set(COME_WITH_ANOTHER)
    assert not missing, f"judging without jax needs these, and the extra `judge` does not bring them: {sorted(missing)}"


def test_the_extra_judge_brings_what_the_judge_imports_late():
    judge = [path for name, path in modules().items() if room(name) in ("judge", "config", "files", "errors")]
    missing = (
        imported_distributions(paths=judge)
        - declared(project()["optional-dependencies"]["judge"])
        - set(COME_WITH_ANOTHER)
    )
    assert not missing, sorted(missing)


def test_each_tracker_is_in_the_extra_of_trackers():
    from typing import get_args

    from extra_jax.config import LoggingConfig

    (choices, _) = get_args(LoggingConfig.model_fields["trackers"].annotation)
    assert set(get_args(choices)) == declared(project()["optional-dependencies"]["track"])
