"""Grading while others still decode."""

import threading

import numpy as np
import pytest

from extra_jax.data.problem import Problem
from extra_jax.reward.countdown import CountdownGrader
from extra_jax.reward.graders import GradedReward
from extra_jax.reward.overlap import OverlappedGrading
from extra_jax.reward.rewards import Rewards
from extra_jax.reward.verdict import Grade, Verdict
from extra_jax.reward.workers import MathGrader

PROBLEMS = [Problem(f"p{i}", "", str(i)) for i in range(6)]
TEXTS = [rf"\boxed{{{answer}}}" for answer in ("0", "1.0", "9", r"\frac{6}{2}", r"\frac{1}{2}", "5")]


class Slow:
    """A grader that is told when to finish, and tells what it was given."""

    name = "slow/1"

    def __init__(self):
        self.given, self.release = [], threading.Event()

    def submit(self, problems, completions):
        self.given += [problem.uid for problem in problems]
        grades = [Grade(Verdict.CORRECT, text, self.name) for text in completions]
        outer = self

        class Pending:
            def result(self):
                assert outer.release.wait(10)
                return grades

        return Pending()


def graded_by(grader):
    return Rewards([GradedReward("slow", lambda: grader, {})], [1.0], "slow", None, 8)


def decode(ids):
    return "".join(map(chr, ids))


def ids(text):
    return np.array([ord(character) for character in text], np.int32)


def test_grading_starts_when_a_completion_is_finished_and_nothing_waits_before_the_result():
    grader = Slow()
    grading = OverlappedGrading(graded_by(grader), decode, PROBLEMS[:3])
    grading.finished(2, ids("c"))
    assert grader.given == ["p2"]
    grading.finished(0, ids("a"))
    grading.finished(1, ids("b"))
    grader.release.set()
    texts, scores = grading.result()
    assert texts == [grade.answer for grade in scores.grades] == ["a", "b", "c"]


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [5, 3, 1, 0, 4, 2]])
def test_grades_do_not_depend_on_when_completions_finished(order):
    with MathGrader() as grader:
        expected = grader.grade(PROBLEMS, TEXTS)
        grading = OverlappedGrading(graded_by(grader), decode, PROBLEMS)
        for row in order:
            grading.finished(row, ids(TEXTS[row]))
        texts, scores = grading.result()
        assert (texts, scores.grades) == (TEXTS, expected)
    assert [grade.verdict for grade in expected] == ["correct", "correct", "wrong", "correct", "wrong", "correct"]


def test_an_answer_is_graded_with_its_given_beginning():
    problem = Problem("p", "", "3", meta={"numbers": [1, 2], "target": 3})
    grading = OverlappedGrading(graded_by(CountdownGrader()), decode, [problem, problem], [ids("1+"), ids("")])
    grading.finished(1, ids("1+2=4"))
    grading.finished(0, ids("2=3"))
    texts, scores = grading.result()
    assert texts == ["1+2=3", "1+2=4"]
    assert [grade.verdict for grade in scores.grades] == ["correct", "wrong"]


@pytest.mark.parametrize("row", [0, 3, -1])
def test_a_row_is_graded_once(row):
    grading = OverlappedGrading(graded_by(CountdownGrader()), decode, PROBLEMS[:3])
    grading.finished(0, ids(""))
    with pytest.raises(ValueError, match=f"row {row} of 3"):
        grading.finished(row, ids(""))
    with pytest.raises(ValueError, match="2 of 3 completions never finished"):
        grading.result()
