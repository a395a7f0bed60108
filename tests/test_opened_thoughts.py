"""Templates that open the thought in the prompt (Qwen3-Thinking-2507): every place that grades is told so."""

import dataclasses
import importlib

import jax
import pytest
from data.test_tokenizer import TEMPLATE, hf_folder
from flax import nnx

from extra_jax.config import config_from_dict
from extra_jax.data.problem import Problem
from extra_jax.data.tokenizer import load_tokenizer
from extra_jax.model.config import preset
from extra_jax.model.hf import save_params
from extra_jax.model.qwen3 import Qwen3
from extra_jax.runtime import Runtime, load_policy

OPENING = TEMPLATE.replace("<|start|>assistant\n", "<|start|>assistant\n<think>\n")


@pytest.fixture
def config(tmp_path):
    """A model whose template opens a thought."""
    folder = tmp_path
    shape = dataclasses.replace(
        preset("tiny"), vocab_size=272, hidden_size=32, intermediate_size=32, num_hidden_layers=1
    )
    save_params(folder / "model", nnx.state(Qwen3(shape, rngs=nnx.Rngs(jax.random.key(0)))), shape, dtype="float32")
    hf_folder(folder / "model", template=OPENING)
    tree = {
        "model": {"path": str(folder / "model"), "dtype": "float32"},
        "data": {"source": "chain", "limit": 8},
        "eval": {"data": {"source": "chain", "limit": 4}},
        "rollout": {"max_prompt_length": 128, "max_completion_length": 4, "dtype": "float32"},
        "train": {"prompts_per_step": 8, "num_generations": 2, "max_steps": 1},
        "reward": {"functions": [{"function": "math_strict_thinking"}]},
        "run": {"dir": str(folder / "run")},
    }
    return config_from_dict(tree)


class Answer(Exception):
    """What a place that grades says to ``make_rewards``."""


def ask(monkeypatch, name, call):
    module = importlib.import_module(f"extra_jax.{name}")

    def say(*_, prompt_opens_thinking=None):
        raise Answer(prompt_opens_thinking)

    monkeypatch.setattr(module, "make_rewards", say)
    with pytest.raises(Answer) as said:
        call(module)
    return said.value.args[0]


def test_every_place_that_grades_says_that_prompts_open_a_thought(config, monkeypatch, tmp_path):
    assert ask(monkeypatch, "train", lambda train: train.train(config))
    policy, _ = load_policy(config)
    assert ask(monkeypatch, "evaluate", lambda evaluate: evaluate.Evaluator(policy, tmp_path))
    problems = [Problem("a", "1+1?", "2")]
    assert ask(monkeypatch, "exprl.collect", lambda collect: collect.Collector(policy, problems))
    assert ask(monkeypatch, "sample", lambda sample: sample.sample(config, ["1+1?"], 1, grade=True))


@pytest.mark.parametrize(
    ("template", "prompt", "opens"),
    [
        (OPENING, "1+1?", True),
        (OPENING.replace("<think>\n", "<think>\n\n</think>\n\n"), "1+1?", False),
        (TEMPLATE, "1+1? <think>", False),
        (None, "1+1? <think>", True),
        (None, "1+1?", False),
    ],
)
def test_the_rendered_prompt_says_whether_it_opens_a_thought(tmp_path, template, prompt, opens):
    tokenizer = load_tokenizer(hf_folder(tmp_path / "other", template=template))
    policy = Runtime(None, None, None, None, tokenizer)
    assert policy.opens_thinking([tokenizer.encode_prompt(prompt)]) is opens
