"""What ``docs/howto/from-trl-verl.md`` shows runs as it stands: TRL's names and functions, a Parquet file of verl."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import yaml
from training_runs import Launcher, metric_rows

from docs.pages import ROOT, blocks
from extra_jax.config import config_from_dict, load_config
from extra_jax.config.foreign import TRL, VERL
from extra_jax.data.tokenizer import load_tokenizer
from extra_jax.errors import ExtraError

PAGE = "howto/from-trl-verl.md"
TRL_FUNCTIONS, VERL_FUNCTIONS = blocks(PAGE, "python")
TRL_CONFIG, VERL_CONFIG = map(yaml.safe_load, blocks(PAGE, "yaml"))
ASKED = [("3 5 8", "24"), ("2 5 4", "14"), ("3 3 4", "36"), ("7 2 1", "10")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the page names: functions, rows, and a model with a chat template."""
    folder = tmp_path_factory.mktemp("coming_from")
    (folder / "trl_rewards.py").write_text(TRL_FUNCTIONS)
    (folder / "verl_reward.py").write_text(VERL_FUNCTIONS)
    (folder / "prompts.jsonl").write_text(blocks(PAGE, "json")[0])
    shutil.copytree(ROOT / "extra_jax" / "assets" / "tiny_base", folder / "chat_model")
    settings = folder / "chat_model" / "tokenizer_config.json"
    template = "{% for message in messages %}{{ message['content'] }}{{ '\n' }}{% endfor %}"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"chat_template": template}))
    rows = [
        {
            "data_source": "countdown",
            "prompt": [{"role": "user", "content": f"countdown {target}: {numbers}"}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": target},
            "extra_info": {"split": "train", "index": index},
        }
        for index, (numbers, target) in enumerate(ASKED)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "train.parquet")
    return folder


@pytest.fixture(scope="module")
def launcher(folder: Path) -> Launcher:
    return Launcher(folder)


def records(run_dir: Path, step: int) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "rollouts" / f"step_{step:06d}.jsonl").read_text().splitlines()]


def test_a_configuration_and_a_function_of_trl_run(folder, launcher, monkeypatch):
    monkeypatch.chdir(folder)
    launcher.run("train", TRL_CONFIG)
    run_dir = folder / TRL_CONFIG["run"]["dir"]
    rows = metric_rows(run_dir)
    assert [row["step"] for row in rows] == [1, 2]
    for row in rows:
        written = [record["completion"] for record in records(run_dir, row["step"])]
        assert len(written) == 8
        rewards = np.array([-abs(20 - len(text)) for text in written])
        assert row["rewards/reward_len/mean"] == row["reward"] == pytest.approx(rewards.mean())
        assert row["rewards/reward_len/std"] == pytest.approx(rewards.std(ddof=1))


def test_a_parquet_file_and_a_score_function_of_verl_run(folder, launcher, monkeypatch):
    monkeypatch.chdir(folder)
    launcher.run("train", VERL_CONFIG)
    run_dir = folder / VERL_CONFIG["run"]["dir"]
    written = records(run_dir, 1)
    golds = {f"countdown/train/{index}": target for index, (_, target) in enumerate(ASKED)}
    assert len(written) == 8
    for record in written:
        expected = float(record["completion"].strip().endswith("=" + golds[record["uid"]]))
        assert record["reward_parts"] == {"score": expected, "think_format_reward": 0.0}  # it saw messages, not a text
        assert (record["verdict"] == "correct") == (expected == 1.0)


def test_a_chat_needs_a_template(folder):
    chat = ({"role": "user", "content": "countdown 24: 3 5 8"},)
    assert load_tokenizer(folder / "chat_model").encode_prompt(chat)
    with pytest.raises(ExtraError, match="no chat template, but the prompt is a chat"):
        load_tokenizer(ROOT / "extra_jax" / "assets" / "tiny_base").encode_prompt(chat)


def test_the_page_says_where_each_name_is():
    """Each row of the page holds a name of theirs and ours, and an unknown key is answered with ours."""
    rows = [line for line in (ROOT / "docs" / PAGE).read_text().splitlines() if line.startswith("|")]
    for name, key in (TRL | VERL).items():
        assert any(f"`{name}`" in row and f"`{key}" in row for row in rows), f"{name} -> {key} is not on the page"


@pytest.mark.parametrize(
    ("key", "ours"),
    [
        ("train.max_completion_length", "rollout.max_completion_length"),
        ("train.learning_rate", "optim.learning_rate"),
        ("train.max_prompt_length", "rollout.max_prompt_length"),
        ("rollout.num_generations", "train.num_generations"),
        ("train.chat_template_kwargs", "tokenizer.chat_template_kwargs"),
        *[(f"train.{name}", key) for name, key in (TRL | VERL).items()],
    ],
)
def test_a_name_of_theirs_is_answered_with_ours(key, ours):
    section, name = key.split(".")
    with pytest.raises(ExtraError, match=rf"'{ours}'"):
        config_from_dict({"model": {"path": "tiny-base"}, section: {name: 1}})


def test_names_that_the_page_calls_the_same_are_settings(tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(TRL_CONFIG))
    tree = load_config(tmp_path / "config.yaml").model_dump()
    rows = (ROOT / "docs" / PAGE).read_text().split("The same name and meaning:")[1].split("Other defaults")[0]
    listed = [row.split("|") for row in rows.splitlines() if row.startswith("| `")]
    assert listed
    for _, section, names, _ in listed:
        for name in names.split(","):
            assert name.strip(" `") in tree[section.strip(" `")], name
