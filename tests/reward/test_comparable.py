"""Graders of others: their rules, with their weaknesses."""

from importlib.metadata import version

import pytest

from extra_jax.data.problem import Problem
from extra_jax.reward.comparable import (
    MathVerifyGrader,
    StrictBoxGrader,
    grade_dapo_strict_box,
    math_verify_task,
)
from extra_jax.reward.verdict import Verdict


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


def test_the_strict_box_is_a_grader():
    problems = [Problem("a", "", "34"), Problem("b", "", "35")]
    grades = StrictBoxGrader().grade(problems, ["Answer: 34", r"\boxed{35}"])
    assert [grade.verdict for grade in grades] == ["no_answer", "correct"]
    assert {grade.grader for grade in grades} == {StrictBoxGrader.name}


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
