"""Every arm is a section that a run can use, and the files of the laboratory are reached by their path."""

from pathlib import Path

import pytest

from benchmarks.exploration.lab import arms
from extra_jax.config import load_config
from extra_jax.doors import load_object
from extra_jax.explore import PromptPolicy, Transform
from extra_jax.explore.build import configured

ROOT = Path(__file__).parents[2]
EVIDENCE = ROOT / "benchmarks" / "exploration" / "evidence.yaml"
LAB = ROOT / "benchmarks" / "exploration" / "lab"


@pytest.mark.parametrize("name", arms.ARMS)
def test_an_arm_is_made_of_the_public_doors(name):
    base = load_config(EVIDENCE).explore.model_dump()
    section = [text for text in arms.overrides(name, base, LAB) if text.startswith("explore=")]
    config = load_config(EVIDENCE, section)
    parts = configured(config)
    assert isinstance(parts[-1], PromptPolicy)
    assert all(isinstance(part, Transform) for part in parts[:-1])
    *_, last = config.explore.bonus
    assert last == f"{LAB}/diagnostics.py:diagnostics", "it sees what is learned from"
    (settings,) = config.explore.prompts.values()
    assert settings["guided_fraction"] == 0.25, "what the file says wins"


def test_only_the_arms_of_the_release_have_its_epsilon():
    wanted = "train.advantage={function: grpo, args: {epsilon: 1.0e-06}}"
    assert {name for name in arms.ARMS if wanted in arms.overrides(name)} == {"B0", "B1"}


def test_a_file_of_a_folder_with_an_init_imports_its_neighbours_once():
    control = load_object(f"{LAB}/controls.py:control", "explore.bonus")
    again = load_object(f"{LAB}/sizing.py:matched", "explore.bonus")
    assert control.__globals__["paid_like_the_real"].__globals__["matched"] is again
