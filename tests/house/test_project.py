"""The files of the project agree with each other."""

import re
import tomllib
from pathlib import Path

import yaml

from extra_jax.version import VERSION

ROOT = Path(__file__).parents[2]


def test_the_version_is_written_in_one_place_and_cited():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "version" in project["dynamic"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == VERSION
    assert re.fullmatch(r"\d+\.\d+\.\d+", VERSION)


def test_the_workflow_runs_what_ci_runs():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    assert {"run": ".ci/run"} in workflow["jobs"]["everything"]["steps"]
    script = (ROOT / ".ci/run").read_text()
    for name in re.findall(r"scripts/\w+\.sh", script):
        assert (ROOT / name).stat().st_mode & 0o100, f"{name} cannot be executed"


def test_the_changelog_has_the_form_of_keep_a_changelog():
    text = (ROOT / "CHANGELOG.md").read_text()
    kinds = re.findall(r"^### (.+)$", text, re.M)
    assert kinds
    assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert re.search(r"^## \[?Unreleased", text, re.M)


def test_pictures_are_visible_outside_of_a_browser():
    """File managers and LaTeX draw what is a variable of CSS black."""
    pictures = [path for folder in ("benchmarks", "docs") for path in (ROOT / folder).rglob("*.svg")]
    assert pictures
    assert not [str(path) for path in pictures if "var(" in path.read_text(encoding="utf-8")]


def test_the_typed_marker_and_the_licence_are_there():
    assert (ROOT / "extra_jax/py.typed").is_file()
    assert "Apache License" in (ROOT / "LICENSE").read_text()[:200]
    for name in (".github/ISSUE_TEMPLATE/bug.yml", ".github/ISSUE_TEMPLATE/idea.yml", ".pre-commit-config.yaml"):
        assert yaml.safe_load((ROOT / name).read_text())
