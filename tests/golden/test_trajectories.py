"""The recipes do what they did before the redesign, bit for bit: tokens, advantages, parameters.

A few of the cases, because each is a real run; ``python -m tests.golden.record --check`` runs all of them.
"""

import json
from pathlib import Path

import pytest

from tests.golden.cases import CASES
from tests.golden.runs import FILE, finished, signature

RECORDED = json.loads(FILE.read_text())
RUN_HERE = ("quickstart", "grpo_everything", "corrected", "release_faithful", "arm_FR", "exprl_process")

pytestmark = pytest.mark.skipif(
    RECORDED["signature"] != signature(),
    reason=f"recorded with {RECORDED['signature']}, this is {signature()}, which rounds differently",
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("name", RUN_HERE)
def test_a_run_is_what_it_was(name: str, cache: Path, tmp_path: Path) -> None:
    assert finished(tmp_path / name, cache, *CASES[name]) == RECORDED[name]


def test_every_case_was_recorded_and_does_something_of_its_own() -> None:
    assert set(RECORDED) == {*CASES, "signature"}
    alike = {"arm_G0": "quickstart", "arm_F": "corrected", "arm_B0": "release_faithful", "arm_P8": "arm_P1"}
    results = {name: RECORDED[name]["parameters"] for name in CASES if name not in alike}
    assert len(set(results.values())) == len(results)
