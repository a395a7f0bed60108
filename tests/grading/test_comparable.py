"""Graders of others: their rules, with their weaknesses."""

from importlib.metadata import version

import pytest

from extra_jax.data.problem import Problem
from extra_jax.reward.comparable import (
    DapoGrader,
    MathVerifyGrader,
    grade_dapo,
    grade_dapo_strict_box,
    math_verify_task,
    minerva_normal,
)
from extra_jax.reward.verdict import Verdict


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("x = 5", "5"),
        (r"\frac12", r"\frac{1}{2}"),
        (r"\sqrt2", r"\sqrt{2}"),
        ("12 inches", "12"),
        ("1,234", "1234"),
        ("1,2x", "1,2x"),
        (r"90^\circ", "90"),
        (r"\text{Evelyn}", "Evelyn"),
        (r"the answer is $\frac{1}{2}$ of it", r"\frac{1}{2}"),
        (r"10,\!080", "10080"),
        ("a b", "b"),
    ],
)
def test_minerva_normal_form(text, normal):
    assert minerva_normal(text) == normal


@pytest.mark.parametrize(
    ("gold", "response", "verdict"),
    [
        ("34", "Reasoning.\nAnswer: 34", Verdict.CORRECT),
        ("34", "Answer: 33\nAnswer: 34", Verdict.CORRECT),
        ("34", "answer : $34$.", Verdict.CORRECT),
        ("34", "Answer: 33", Verdict.WRONG),
        ("25", "Answer: 25.0", Verdict.WRONG),
        ("34", r"\boxed{34}", Verdict.NO_ANSWER),
        ("34", "Answer: 34" + " " * 300, Verdict.NO_ANSWER),
    ],
)
def test_dapo_takes_the_answer_line_of_the_last_300_characters(gold, response, verdict):
    assert grade_dapo(gold, response).verdict == verdict


@pytest.mark.parametrize(
    ("gold", "response", "verdict"),
    [
        ("34", r"so \boxed{34}", Verdict.CORRECT),
        ("34", r"\boxed{33} then \boxed{34}", Verdict.CORRECT),
        ("34", r"\boxed{34.0}", Verdict.WRONG),
        ("34", r"\boxed{34} then \boxed{3", Verdict.NO_ANSWER),
        ("34", r"\boxed{34}" + " " * 100, Verdict.NO_ANSWER),
        (r"\frac{1}{2}", r"\boxed{\frac{1}{2}}", Verdict.CORRECT),
    ],
)
def test_dapo_strict_box_compares_characters(gold, response, verdict):
    assert grade_dapo_strict_box(gold, response).verdict == verdict


def test_dapo_graders_are_graders():
    problems = [Problem("a", "", "34"), Problem("b", "", "35")]
    responses = ["Answer: 34", r"\boxed{35}"]
    for strict_box, verdicts in [(False, ["correct", "no_answer"]), (True, ["no_answer", "correct"])]:
        grader = DapoGrader(strict_box=strict_box)
        grades = grader.grade(problems, responses)
        assert [grade.verdict for grade in grades] == verdicts
        assert {grade.grader for grade in grades} == {grader.name}
        grader.close()


@pytest.mark.parametrize(
    ("gold", "response", "verdict"),
    [
        (r"2\pi", r"\boxed{2\pi}", "correct"),
        ("56088", r"\boxed{123 \times 456}", "correct"),  # unevaluated answers pass
        ("5", r"\boxed{4}, \boxed{5}", "wrong"),  # boxes are merged
        ("5", "", "no_answer"),
        ("", r"\boxed{5}", "gold_unparseable"),
    ],
)
def test_math_verify_plain_keeps_its_weaknesses(gold, response, verdict):
    assert math_verify_task(gold, response)[0] == verdict


def test_math_verify_grader_runs_in_workers_and_carries_the_version():
    with MathVerifyGrader(workers=1) as grader:
        grades = grader.grade([Problem("a", "", r"\frac{1}{2}")] * 2, [r"\boxed{0.5}", r"\boxed{2}"])
    assert [grade.verdict for grade in grades] == [Verdict.CORRECT, Verdict.WRONG]
    assert grades[0].grader == f"math_verify_plain/{version('math-verify')}"
    assert grades[0].answer == "1/2"
