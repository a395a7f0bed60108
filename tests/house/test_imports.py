"""The import contract: imports point one way, and what must work without jax does (docs/design.md)."""

import subprocess
import sys
from itertools import pairwise

import pytest

from house.imports import Import, circles, imports, modules, room

LAYERS = (
    {"errors", "answers", "files", "doors", "columns", "interrupts", "version"},
    {"config"},
    {"model", "data", "parallel"},
    {"rollout", "reward", "learn"},
    {"runtime", "exploration", "telemetry"},
    {"explore", "judge"},
    {"view"},
    {"noise", "checkpoint", "run_dir", "provenance", "evaluate", "stages", "dynamic_sampling", "export", "run"},
    {"train", "sft", "exprl", "sample", "replay", "plan", "dry_run", "dry_run_warnings"},
    {"assemble"},
    {"api", "cli", "front"},
)
"""From the lowest to the highest. A room imports from its own layer and from those below it."""

WITHOUT_JAX = ("answers", "judge", "config", "view")

MAY_NOT_IMPORT = {"train": {"explore"}, "dynamic_sampling": {"explore"}, "answers": {"errors"}}
"""Beyond the layers: ``train`` is handed its exploration, and ``answers`` can be used alone."""

PACKAGE_PATH = {"extra_jax"}
"""``import extra_jax`` for the folder of the package is allowed everywhere: the front door loads nothing."""


def violations() -> set[tuple[str, str]]:
    level = {name: height for height, layer in enumerate(LAYERS) for name in layer}
    wrong = set()
    for one in imports():
        importer, imported = room(one.importer), room(one.imported)
        if importer == imported or one.imported in PACKAGE_PATH:
            continue
        if level[imported] > level[importer] or imported in MAY_NOT_IMPORT.get(importer, ()):
            wrong.add((one.importer, imported))
    return wrong


def test_every_room_has_a_layer():
    rooms = {room(name) for name in modules()}
    placed = [name for layer in LAYERS for name in layer]
    assert len(placed) == len(set(placed))
    assert rooms <= set(placed), f"say in LAYERS where these belong: {sorted(rooms - set(placed))}"


def test_imports_point_one_way():
    assert not violations()


def test_there_are_no_circles_of_modules():
    assert not circles([one for one in imports() if one.when != "late" and one.imported not in PACKAGE_PATH])


def test_a_circle_is_recognised():
    def chain(*names: str) -> list[Import]:
        return [Import(a, b, "top") for a, b in pairwise(names)]

    assert circles(chain("a", "b", "c", "d")) == []
    assert circles(chain("a", "b", "c", "b") + chain("d", "a", "e", "a")) == [["b", "c"], ["a", "e"]]


@pytest.mark.parametrize("name", WITHOUT_JAX)
def test_a_room_is_imported_without_jax(name: str):
    """Every module of the room, in a process in which jax and flax cannot be imported."""
    names = sorted(module for module in modules() if room(module) == name)
    program = "import sys, importlib\n" + "".join(f"sys.modules[{block!r}] = None\n" for block in ("jax", "flax"))
    program += f"for name in {names}: importlib.import_module(name)\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_answers_import_nothing_of_ours():
    outside = {(one.importer, one.imported) for one in imports() if room(one.importer) == "answers"}
    assert not {pair for pair in outside if room(pair[1]) not in ("answers", "front")}
