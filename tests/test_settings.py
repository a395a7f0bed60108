"""The verb ``config``: every setting is explained, and configurations of TRL and verl become ours."""

import json

import pytest
import yaml

from extra_jax import cli
from extra_jax.config import Config, config_from_dict
from extra_jax.config.convert import convert
from extra_jax.config.foreign import TRL, VERL
from extra_jax.config.reference import all_settings
from extra_jax.errors import ExtraError

TRL_FILE = """
model_name_or_path: Qwen3-0.6B
dataset_name: trl-lib/DeepMath-103K
output_dir: runs/grpo
learning_rate: 1e-6
num_generations: 8
generation_batch_size: 64
beta: 0.001
loss_type: dr_grpo
scale_rewards: false
temperature: 0.9
gradient_checkpointing: true
bf16: true
report_to: [wandb]
save_steps: 25
logging_steps: 1
per_device_train_batch_size: 4
use_vllm: true
reward_funcs: [format, overlong_x]
reward_weights: [1.0, 0.5]
"""
VERL_FILE = """
data: {train_files: a/train.parquet, val_files: a/test.parquet, train_batch_size: 512, max_prompt_length: 1024,
  max_response_length: 2048}
actor_rollout_ref:
  model: {path: Qwen3-1.7B}
  actor: {optim: {lr: 1e-6}, ppo_mini_batch_size: 256, use_kl_loss: false, kl_loss_coef: 0.01, clip_ratio_high: 0.28,
    loss_agg_mode: token-mean}
  rollout: {n: 6, name: vllm}
algorithm: {adv_estimator: grpo, norm_adv_by_std_in_grpo: true}
critic: {strategy: fsdp}
trainer: {logger: [console, wandb], save_freq: 20, total_epochs: 1}
"""


def test_every_setting_has_a_meaning_and_a_default_that_is_its_own():
    settings = all_settings()
    assert len({s.key for s in settings}) == len(settings) > 130
    tree = config_from_dict({"model": {"path": "tiny-base"}}).model_dump(mode="json")
    for setting in settings:
        assert setting.meaning.endswith((".", ")")), setting
        value = tree
        for part in setting.key.split("."):
            value = None if value is None else value[part]
        if setting.default != "required" and setting.key not in ("model.path", "reward.functions"):
            assert json.loads(setting.default) == value or setting.key.startswith("reward.correct"), setting
    assert {s.key.partition(".")[0] for s in settings} == set(Config.model_fields)


def test_ranges_are_those_that_the_section_holds():
    ranges = {s.key: s.range for s in all_settings()}
    assert ranges["train.num_generations"] == ">= 2, <= 4,096"
    assert ranges["train.delta"] == "> 1, <= 1,000,000.0"
    with pytest.raises(ExtraError, match="greater than or equal to 2"):
        config_from_dict({"model": {"path": "tiny-base"}, "train": {"num_generations": 1}})


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (["train.epsilon"], "train.epsilon: number (> 0, <= 1,000), default 0.2\n  The ratio"),
        (["optim"], "optim.learning_rate: number"),
        (["--all"], "eval.every"),
        ([], "release_faithful"),
        (["--diff", "configs/quickstart.yaml"], 'model.dtype: "bfloat16" -> "float32"'),
    ],
)
def test_what_is_asked_for_is_printed(arguments, printed, capsys):
    assert cli.main(["config", *arguments]) == 0
    assert printed in capsys.readouterr().out


def test_an_unknown_setting_names_the_nearest(capsys):
    assert cli.main(["config", "train.epsilonn"]) == 2
    assert "did you mean 'train.epsilon'?" in capsys.readouterr().err
    assert cli.main(["config", "learning_rat"]) == 2
    assert "did you mean 'optim.learning_rate'?" in capsys.readouterr().err


def test_a_file_of_trl_becomes_ours(tmp_path, capsys):
    (tmp_path / "trl.yaml").write_text(TRL_FILE)
    assert cli.main(["config", "--from-trl", str(tmp_path / "trl.yaml")]) == 0
    text = capsys.readouterr().out
    assert yaml.safe_load(text) == {
        "model": {"path": "Qwen3-0.6B", "remat": "full", "dtype": "bfloat16"},
        "data": {"source": "hub:trl-lib/DeepMath-103K"},
        "run": {"dir": "runs/grpo"},
        "optim": {"learning_rate": 1e-6},
        "train": {
            "num_generations": 8, "prompts_per_step": 8, "beta": 0.001, "loss_type": "dr_grpo", "scale_rewards": "none"
        },
        "rollout": {"temperature": 0.9},
        "logging": {"trackers": ["wandb"]},
        "checkpoint": {"every": 25},
        "reward": {
            "functions": [{"function": "format", "weight": 1.0}, {"function": "overlong_x", "weight": 0.5}]
        },
    }  # fmt: skip
    config_from_dict(yaml.safe_load(text))
    notes = text.partition("# Not translated:\n")[2]
    assert [line.split(":")[0] for line in notes.splitlines()] == [
        "# logging_steps", "# per_device_train_batch_size", "# use_vllm"
    ]  # fmt: skip


def test_a_file_of_verl_becomes_ours(tmp_path):
    (tmp_path / "verl.yaml").write_text(VERL_FILE)
    converted = convert(tmp_path / "verl.yaml", "verl")
    assert converted.tree == {
        "data": {"source": "a/train.parquet"},
        "eval": {"data": {"source": "a/test.parquet"}},
        "train": {
            "prompts_per_step": 512, "num_minibatches": 2, "beta": 0.0, "epsilon_high": 0.28, "loss_type": "dapo",
            "num_generations": 6, "advantage": "grpo", "scale_rewards": "group",
        },
        "rollout": {"max_prompt_length": 1024, "max_completion_length": 2048},
        "model": {"path": "Qwen3-1.7B"},
        "optim": {"learning_rate": 1e-6},
        "logging": {"trackers": ["wandb"]},
        "checkpoint": {"every": 20},
    }  # fmt: skip
    assert set(converted.left) == {"actor_rollout_ref.rollout.name", "critic.strategy", "trainer.total_epochs"}


@pytest.mark.parametrize(("library", "names"), [("trl", TRL), ("verl", VERL)])
def test_every_name_of_the_table_is_translated_or_left_with_a_reason(tmp_path, library, names):
    for name, key in names.items():
        (tmp_path / "one.yaml").write_text(f"{name}: [nonsense]")
        said: str | None = None
        try:
            converted = convert(tmp_path / "one.yaml", library)
        except ExtraError as error:
            said = str(error)
        assert "translated" in said if said else converted.tree or key in converted.left[name]


def test_values_of_trl_are_taken_or_explained():
    def tree(section, **values):
        return config_from_dict({"model": {"path": "tiny-base"}, section: values})

    assert tree("train", scale_rewards=False).train.scale_rewards == "none"
    assert tree("train", scale_rewards=True).train.scale_rewards == "group"
    assert tree("logging", trackers="wandb").logging.trackers == ("wandb",)
    with pytest.raises(ExtraError, match="gspo is importance_sampling_level=sequence here"):
        tree("train", loss_type="gspo")


def test_a_dry_run_finds_what_would_fail(tmp_path, capsys, monkeypatch):
    def said(*overrides):
        status = cli.main(["train", "configs/quickstart.yaml", "--dry-run", f"run.dir={tmp_path}", *overrides])
        return status, "".join(capsys.readouterr())

    few = ("data.limit=8", "eval.data.limit=8")
    status, text = said(*few)
    assert status == 0
    assert "warning: train.prompts_per_step=64 asks 8 problems several times a step" in text
    assert "does not fit mesh.emulated_cpu_devices=2" in said(*few, "mesh.data=3")[1]
    assert "does not fit" in said(*few, "mesh.data=1")[1]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install extra-jax[hub]" in said("data.source=hub:a/b", "data.task={}", *few)[1]
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    (tmp_path / "config.yaml").write_text("model: {path: tiny-base}\n")
    status, text = said(*few)
    assert status == 2
    assert "holds a run of another configuration" in text
    assert "optim.learning_rate: 1e-06 -> 0.0001" in text


def test_what_is_required_is_said_right(capsys):
    assert cli.main(["train"]) == 2
    assert "required: CONFIG.yaml\n" in capsys.readouterr().err
