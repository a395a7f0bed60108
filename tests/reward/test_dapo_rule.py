"""The answer line of DAPO, which ``benchmarks/grading`` compares with."""

import sys
from pathlib import Path

import pytest

from extra_jax.reward.verdict import Verdict

sys.path.append(str(Path(__file__).parents[2] / "benchmarks" / "grading"))
from dapo_rule import grade_dapo, minerva_normal


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
