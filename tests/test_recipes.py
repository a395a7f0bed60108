"""The configurations that ship with the project are valid as a user starts them."""

import json
from pathlib import Path

import pytest

from extra_jax import cli

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.fixture(scope="module")
def problems(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("data") / "problems.jsonl"
    rows = [{"id": f"p{i}", "problem": f"{i} + 1?", "answer": str(i + 1), "solution": str(i + 1)} for i in range(8)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_every_recipe_is_listed_here():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == {
        "quickstart",
        "exploration",
        "tiny_base",
        "math_smoke",
        "gsm8k_0_5b",
        "qwen3_1_7b_grpo",
        "one_tpu_vm",
        "one_gpu",
        "exprl_outcome",
        "exprl_process",
        "exprl_sparse_grpo",
        "exprl_sft",
        "exprl_self_distillation",
        "exprl_stage2",
    }


# What a test cannot have: the model, its tokenizer and the data sets.
ABSENT = [
    "model.path=null",
    "tokenizer.path={chat_tokenizer}",
    "data.source={problems}",
    "eval.data.source={problems}",
]


@pytest.mark.parametrize(
    ("verb", "recipe", "overrides"),
    [
        ("train", "quickstart", []),
        ("train", "exploration", []),
        ("sft", "tiny_base", ["data.source={problems}"]),
        ("exprl", "exprl_outcome", ["judge.endpoint=http://localhost:8000/v1"]),
        ("rollout", "exprl_process", ["out=runs/store"]),
        ("exprl", "exprl_process", []),
        ("exprl", "exprl_self_distillation", []),
        ("train", "exprl_sparse_grpo", []),
        ("sft", "exprl_sft", []),
        ("train", "exprl_stage2", ["model.path=tiny-base"]),
        ("train", "math_smoke", ["data.source={problems}", "tokenizer.path={chat_tokenizer}"]),
        ("train", "gsm8k_0_5b", ["model.preset=Qwen2.5-0.5B", *ABSENT, "eval.data.split=train"]),
        ("train", "one_tpu_vm", ["model.preset=0.6B", *ABSENT]),
        ("train", "one_gpu", ["model.preset=0.6B", *ABSENT]),
        ("train", "qwen3_1_7b_grpo", ["model.preset=1.7B", *ABSENT]),
    ],
)
def test_a_recipe_is_valid_under_dry_run(verb, recipe, overrides, problems, chat_tokenizer, capsys):
    filled = [override.format(problems=problems, chat_tokenizer=chat_tokenizer) for override in overrides]
    assert cli.main([verb, str(CONFIGS / f"{recipe}.yaml"), *filled, "--dry-run"]) == 0, capsys.readouterr().err
    assert "the configuration is valid" in capsys.readouterr().out
