"""Reasoning Gym as a source of problems with its own scores."""

import sys
from contextlib import closing

import pytest

from extra_jax.config import DataConfig, RewardConfig
from extra_jax.data.problem import Problem
from extra_jax.data.sources import load_problems
from extra_jax.errors import ExtraError
from extra_jax.reward.gym import find_answer
from extra_jax.reward.rewards import make_rewards

NAME = "reasoning_gym:leg_counting"


pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def gym():
    return pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed; it is an optional extra")


def test_the_answer_is_in_the_element_or_in_the_box():
    assert find_answer("<answer>1</answer> <answer> 2 </answer> x") == "2"
    assert find_answer("<think><answer>1</answer></think> so \\boxed{3}") == "3"
    assert find_answer("<answer>1") is None


def test_problems_are_repeatable_distinct_and_split_by_seed(gym):
    options = {"seed": 3, "limit": 20, "max_animals": 4}
    train, test = (load_problems(NAME, split=split, **options) for split in ("train", "test"))
    assert train == load_problems(NAME, **options)
    assert len({problem.uid for problem in train + test}) == 40
    assert {problem.meta["item_seed"] % 2 for problem in train} == {0}
    assert {problem.meta["item_seed"] % 2 for problem in test} == {1}
    direct = gym.create_dataset("leg_counting", seed=train[0].meta["item_seed"], size=1, max_animals=4)[0]
    assert (train[0].prompt, train[0].answer) == (direct["question"], direct["answer"])


def test_its_score_is_the_reward_and_one_is_correct(gym):
    problems = load_problems("reasoning_gym:number_format", limit=1, seed=1) * 3
    right = problems[0].answer
    texts = [f"<answer>{right}</answer>", f"<answer>about {right}</answer>", "no idea"]
    with closing(make_rewards(RewardConfig(), DataConfig(source="reasoning_gym:number_format"), 99)) as rewards:
        scores = rewards(problems, texts, [[0]] * 3)
        foreign = rewards([Problem("p", "", "1")], ["<answer>1</answer>"], [[0]])
    entry = gym.create_dataset("number_format", seed=problems[0].meta["item_seed"], size=1)
    expected = [entry.score_answer(find_answer(text), entry[0]) for text in texts[:2]]
    assert scores.rewards.tolist() == [*expected, 0.0]
    assert scores.correct.tolist() == [value >= 1 for value in [*expected, 0.0]]
    assert scores.grades[2].verdict == "no_answer"
    assert (foreign.grades[0].verdict, foreign.valid.tolist()) == ("gold_unparseable", [False])


def test_what_the_library_refuses_is_said(gym):
    with pytest.raises(ExtraError, match=r"no such data set. Did you mean 'leg_counting'"):
        load_problems("reasoning_gym:leg_countin", limit=1)
    with pytest.raises(ExtraError, match=r"data.task is refused: .*animals"):
        load_problems(NAME, limit=1, animals=3)
    with pytest.raises(ExtraError, match="say how many problems"):
        load_problems(NAME)


def test_without_the_library_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", None)
    with pytest.raises(ExtraError, match=r"pip install 'extra-jax\[reasoning-gym\]'"):
        load_problems(NAME, limit=1)
