"""The graders of the generated tasks."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extra_jax.data.problem import Problem
from extra_jax.data.tasks import chain, countdown
from extra_jax.reward.chain import ChainGrader
from extra_jax.reward.countdown import CountdownGrader
from extra_jax.reward.verdict import Grade, Verdict

COUNTDOWN = Problem("countdown/24:3,5,8", "countdown 24: 3 5 8\n", "24", meta={"numbers": [3, 5, 8], "target": 24})
CHAIN = Problem(
    "chain/7+5*3-8", "chain 7 +5 *3 -8\n", "28", "7+5=12\n12*3=36\n36-8=28\n", meta={"start": 7, "operations": []}
)


def grade_countdown(text: str, problem: Problem = COUNTDOWN) -> Grade:
    return CountdownGrader().grade([problem], [text])[0]


def grade_chain(text: str, problem: Problem = CHAIN) -> Grade:
    return ChainGrader().grade([problem], [text])[0]


@pytest.mark.parametrize("seed", range(3))
def test_reference_solutions_are_correct(seed):
    bounds = {"numbers": (2, 6), "max_number": 40, "max_target": 400}
    problems = countdown.generate(200, seed=seed, split="train", **bounds)
    assert {g.verdict for g in CountdownGrader().grade(problems, [p.solution for p in problems])} == {Verdict.CORRECT}
    problems = chain.generate(200, seed=seed, split="train", steps=(1, 20))
    grades = ChainGrader().grade(problems, [p.solution for p in problems])
    assert {g.verdict for g in grades} == {Verdict.CORRECT}
    assert [g.answer for g in grades] == [p.answer for p in problems]


@pytest.mark.parametrize(
    "text",
    [
        "8-5=3\n3*8=24\n",
        "8-5=3\n3*3=9\n",
        "3*8=24\n",
        "3*8=24",
        "8*3=24\n",
        "5-3=2\n8/2=4\n",
        "5-3=2\n2*8=16\n16+8=24\n",
    ],
)
def test_countdown_uses_each_number_at_most_once(text):
    solves = text.startswith(("3*8", "8*3"))
    assert grade_countdown(text).verdict == (Verdict.CORRECT if solves else Verdict.WRONG)


def test_countdown_accepts_any_correct_solution():
    problem = Problem("x", "", "6", meta={"numbers": (1, 2, 3, 4), "target": 6})
    for text in ("2*3=6\n", "4+2=6", "1+2=3\n3+3=6\n", "4/2=2\n2*3=6\n", "4-1=3\n3+3=6\n", "3*4=12\n12/2=6\n6*1=6\n"):
        assert grade_countdown(text, problem).verdict == Verdict.CORRECT, text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("3*8=25\n", "does not hold"),
        ("3*9=27\n", "9 is not available"),
        ("3+8=11\n8+5=13\n", "line 2: 8 is not available"),
        ("5-8=3\n", "does not hold"),
        ("5-5=0\n", "line 1 is no step"),
        ("3-8=-5\n", "line 1 is no step"),
        ("8/5=1\n", "does not hold"),
        ("3*8=24\n24+5=29\n", "last result is 29"),
        ("3*8=24\n\n", "line 2 is no step"),
        ("\n3*8=24\n", "line 1 is no step"),
        ("so 3*8=24\n", "line 1 is no step"),
        ("3*8=24 done", "line 1 is no step"),
        ("3 * 8 = 24\n", "line 1 is no step"),
        ("3*8=24\r\n", "line 1 is no step"),
        ("03*8=24\n", "line 1 is no step"),
        ("3*8=24\n24", "line 2 is no step"),
        ("٣*8=24\n", "line 1 is no step"),
        ("3*8=" + "9" * 5000 + "\n", "line 1 is no step"),
    ],
)
def test_countdown_refuses_wrong_and_malformed_lines(text, why):
    grade = grade_countdown(text)
    assert grade.verdict == Verdict.WRONG
    assert why in grade.detail


@pytest.mark.parametrize("text", ["", "\n", " \n\n"])
def test_blank_completions_have_no_answer(text):
    assert grade_countdown(text) == Grade(Verdict.NO_ANSWER, None, "countdown/1")
    assert grade_chain(text) == Grade(Verdict.NO_ANSWER, None, "chain/1")


def test_the_answer_is_the_last_result():
    assert grade_countdown("8-5=3\n3*3=9\n").answer == "9"
    assert grade_countdown("8-5=3\n3*").answer is None
    assert grade_chain("7+5=13\n").answer == "13"


@pytest.mark.parametrize("meta", [{}, {"numbers": [], "target": 3}, {"numbers": ["3"], "target": 3}, {"numbers": [3]}])
def test_a_problem_of_another_kind_is_gold_unparseable(meta):
    grade = grade_countdown("1+2=3\n", Problem("other", "", "3", meta=meta))
    assert grade.verdict == Verdict.GOLD_UNPARSEABLE
    assert "other" in grade.detail
    assert grade_chain("1+2=3\n", Problem("other", "", "\\frac12")).verdict == Verdict.GOLD_UNPARSEABLE


@given(st.text(alphabet="0123456789+-*/=\n: ", max_size=40))
@settings(max_examples=300)
def test_graders_never_raise_on_any_text(text):
    assert grade_countdown(text).verdict in (Verdict.CORRECT, Verdict.WRONG, Verdict.NO_ANSWER)
    assert grade_chain(text).verdict in (Verdict.CORRECT, Verdict.WRONG, Verdict.NO_ANSWER)


def test_grades_follow_the_order_of_the_completions():
    grades = CountdownGrader().grade([COUNTDOWN] * 3, ["3*8=24\n", "", "3*8=23\n"])
    assert [g.verdict for g in grades] == [Verdict.CORRECT, Verdict.NO_ANSWER, Verdict.WRONG]
    with pytest.raises(ValueError, match="shorter"):
        ChainGrader().grade([CHAIN] * 2, [""])


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("7+5=12\n12*3=36\n36-8=28\n", Verdict.CORRECT),
        ("7+5=12\n12*3=36\n36-8=28", Verdict.CORRECT),
        ("7+5=99\n12*3=0\n36-8=28\n", Verdict.CORRECT),
        ("7+5=12\n12*3=36\n36-8=29\n", Verdict.WRONG),
        ("36-8=28\n7+5=12\n", Verdict.WRONG),
        ("3-9=-6\n", Verdict.WRONG),
        ("7+5=12\n12*3=36\n36-8=", Verdict.NO_ANSWER),
        ("7+5=12\n12*3=36\n36-8=28\nso 28", Verdict.NO_ANSWER),
        ("the answer is 28", Verdict.NO_ANSWER),
    ],
)
def test_chain_verdict_is_the_final_result(text, verdict):
    assert grade_chain(text).verdict == verdict
