"""Can a right answer be rewarded? Prompts and answers as they are published, tried on the graders of a run."""

import pytest

from extra_jax.config import DataConfig, RewardConfig
from extra_jax.data.problem import Problem
from extra_jax.errors import ExtraError
from extra_jax.reward.golds import check_problems, form_problems
from extra_jax.reward.rewards import make_rewards
from extra_jax.reward.workers import MathGrader

DAPO = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
    "$Answer (without quotes) where $Answer is the answer to the problem.\n\nWhat is 1+1?\n\nRemember to put your "
    'answer on its own line after "Answer:".'
)
VERL_GSM8K = 'What is 1+1? Let\'s think step by step and output the final answer after "####".'
R1 = "Reason in <think> </think> tags and answer in <answer> </answer> tags. What is 1+1?"
BOX = "What is 1+1? Please reason step by step, and put your final answer within \\boxed{}."


def problems(*prompts, answer="2"):
    return [Problem(f"set/{i}", prompt, answer) for i, prompt in enumerate(prompts, start=1)]


@pytest.fixture(scope="module")
def grader():
    with MathGrader() as grader:
        yield grader


@pytest.fixture
def rewards(request):
    config = RewardConfig.model_validate({"functions": [{"function": getattr(request, "param", "math")}]})
    rewards = make_rewards(config, DataConfig(source="set.jsonl"), 64)
    yield rewards
    rewards.close()


@pytest.mark.parametrize(("prompt", "form"), [(DAPO, "Answer: 2"), (VERL_GSM8K, "#### 2"), (R1, "<answer>2</answer>")])
def test_a_prompt_that_asks_for_a_form_that_is_not_read_is_named(grader, prompt, form):
    chat = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": prompt})
    text, same = form_problems(problems(prompt, chat), grader)
    assert text == same == f"'{form}' is no_answer (no complete box)"
    assert form_problems(problems(prompt + BOX), grader) == [""]


@pytest.mark.parametrize("prompt", [BOX, "What is 1+1?", "Question: What is the answer to 1+1?"])
def test_a_prompt_that_asks_for_a_box_or_for_nothing_is_fine(grader, prompt):
    assert form_problems(problems(prompt), grader) == [""]


@pytest.mark.parametrize("rewards", ["math", "math_strict_thinking", "dapo_strict_box"], indirect=True)
def test_each_grader_that_reads_boxes_is_tried(rewards):
    assert check_problems(problems(BOX), rewards) == "a right answer is rewarded in 1 of 1 problems tried"
    with pytest.raises(ExtraError, match=r"earns nothing in 1 of 1 problems tried \(set/1: 'Answer: 2' is .*boxed"):
        check_problems(problems("Write one line, Answer: and the number."), rewards)


@pytest.mark.parametrize("rewards", ["math_verify"], indirect=True)
def test_a_grader_that_reads_other_forms_may_be_asked_for_them(rewards):
    assert check_problems(problems("Write one line, Answer: and the number."), rewards).endswith(
        "1 of 1 problems tried"
    )


@pytest.mark.parametrize("rewards", ["dapo_strict_box"], indirect=True)
def test_an_answer_that_is_longer_than_what_the_grader_looks_at_is_named(rewards):
    with pytest.raises(ExtraError, match="no complete box in the last 100 characters"):
        check_problems(problems(BOX, answer="1" * 120), rewards)


def test_most_is_an_error_and_some_is_a_warning_with_their_names(rewards, caplog):
    bad = [Problem("bad", "Why?", "\\frac{1}{")]
    assert check_problems(problems(BOX, BOX) + bad, rewards).endswith("in 2 of 3 problems tried")
    assert "a right answer earns nothing in 1 of 3 problems tried (bad: " in caplog.text
    with pytest.raises(ExtraError, match=r"nothing in 2 of 3 problems tried.*`extra-jax data lint FILE`"):
        check_problems(problems(BOX) + bad * 2, rewards)


def test_a_large_set_is_tried_in_places_spread_over_it(rewards):
    many = problems(*[BOX] * 1000)
    assert check_problems(many, rewards, most=10).endswith("in 10 of 10 problems tried")
    half = [Problem(p.uid, p.prompt, "\\frac{1}{") if i >= 400 else p for i, p in enumerate(many)]
    with pytest.raises(ExtraError, match="nothing in 6 of 10"):
        check_problems(half, rewards, most=10)


@pytest.mark.parametrize("rewards", ["countdown"], indirect=True)
def test_a_grader_of_another_kind_is_not_tried(rewards):
    assert check_problems(problems(DAPO), rewards) == ""
