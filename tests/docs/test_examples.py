"""The files of docs/examples are used the way their pages say, with nothing edited inside of the package."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import transformers

from tests.compiler import QUICK
from tests.golden.runs import run, small

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs/examples"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def trained(folder: Path, cache: Path, *arguments: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Metrics of each step, and the completions of the last."""
    run(folder, cache, *arguments, "train.max_steps=3", "run.dir=run", flags=QUICK)
    metrics = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    last = (folder / "run/rollouts/step_000003.jsonl").read_text().splitlines()
    return metrics, [json.loads(line) for line in last]


def own(file: str, name: str) -> str:
    return f"{EXAMPLES / file}:{name}"


def test_no_example_is_long() -> None:
    assert len(list(EXAMPLES.glob("*.py"))) == 8
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text().splitlines()) <= 40, path


def test_own_advantage_bonus_and_prompts_in_one_run(cache: Path, tmp_path: Path) -> None:
    metrics, records = trained(
        tmp_path, cache, *small("quickstart.yaml"),
        f"train.advantage={own('own_advantage.py', 'shared_answers')}",
        f"explore.bonus={json.dumps({own('own_bonus.py', 'elliptical'): {'alpha': 0.3}})}",
        f"explore.prompts={json.dumps({own('own_prompts.py', 'curriculum'): {'look_ahead': 3}})}",
    )  # fmt: skip
    assert metrics[-1]["exploration/elliptical_mean"] > 0
    assert metrics[-1]["exploration/curriculum_known"] > 16, "it has seen more problems than one step has"
    assert metrics[-1]["exploration/curriculum_waiting"] == 32
    assert any(row["bonus"] for row in records)
    for row in records:
        wanted = row["advantage_task"] + (row["bonus"] or 0.0)
        assert row["advantage"] == pytest.approx(wanted, abs=2e-4 * max(1, abs(wanted)))


def test_own_control_pays_what_novelty_would_but_to_others(cache: Path, tmp_path: Path) -> None:
    bonus = {"novelty": None, own("own_control.py", "shuffled_novelty"): {"seed": 1}}
    metrics, records = trained(tmp_path, cache, *small("exploration.yaml"), f"explore.bonus={json.dumps(bonus)}")
    assert metrics[0]["exploration/bonus_abs_mean"] > 0
    assert {row["verdict"] for row in records if row["bonus"] is not None} == {"correct"}


def test_own_task_has_a_reward_and_a_split_of_its_own(cache: Path, tmp_path: Path) -> None:
    metrics, records = trained(
        tmp_path, cache, *small("quickstart.yaml"), f"data.source={own('own_task.py', 'sorting')}", "data.task={}",
        f"reward.functions=[{json.dumps(own('own_task.py', 'sorted_well'))}]",
        "reward.correct={function: sorted_well, threshold: 1}",
    )  # fmt: skip
    assert {row["source"] for row in records} <= {"", "sorting"}
    assert all(row["prompt"].startswith("sort ") for row in records)
    assert metrics[-1]["rewards/sorted_well/mean"] > 0
    sys.path.insert(0, str(EXAMPLES))
    try:
        from own_task import sorting
    finally:
        sys.path.remove(str(EXAMPLES))
    train, test = (sorting(200, seed=0, split=split) for split in ("train", "test"))
    assert not {p.uid for p in train} & {p.uid for p in test}


def test_the_notebook_trains_plots_and_exports(cache: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_COMPILATION_CACHE_DIR": str(cache)}
    environment |= {"XLA_FLAGS": QUICK, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "notebook.py"), str(tmp_path)],
        env=environment, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "<polyline" in (tmp_path / "reward.svg").read_text()
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "export")
    assert model.config.model_type == "qwen3"
