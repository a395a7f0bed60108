"""Grading while others still decode."""

import threading

import pytest

from extra_jax.data.problem import Problem
from extra_jax.reward.countdown import CountdownGrader
from extra_jax.reward.overlap import OverlappedGrading
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


def test_grading_starts_when_a_completion_is_added_and_nothing_waits_before_the_result():
    grader = Slow()
    grading = OverlappedGrading(grader, PROBLEMS[:3])
    grading.add([2], ["c"])
    assert grader.given == ["p2"]
    grading.add([0, 1], ["a", "b"])
    grader.release.set()
    assert [grade.answer for grade in grading.result()] == ["a", "b", "c"]


@pytest.mark.parametrize("order", [[[0, 1, 2, 3, 4, 5]], [[5], [3, 1], [0], [4, 2]], [[i] for i in range(6)]])
def test_grades_do_not_depend_on_when_completions_finished(order):
    with MathGrader() as grader:
        expected = grader.grade(PROBLEMS, TEXTS)
        grading = OverlappedGrading(grader, PROBLEMS)
        for rows in order:
            grading.add(rows, [TEXTS[row] for row in rows])
        assert grading.result() == expected
    assert [grade.verdict for grade in expected] == ["correct", "correct", "wrong", "correct", "wrong", "correct"]


def test_a_grader_without_workers_grades_at_once():
    problem = Problem("p", "", "1+2=3", meta={"numbers": [1, 2], "target": 3})
    grading = OverlappedGrading(CountdownGrader(), [problem, problem])
    grading.add([1], ["1+2=3"])
    grading.add([0], ["1+2=4"])
    assert [grade.verdict for grade in grading.result()] == ["wrong", "correct"]


@pytest.mark.parametrize("rows", [[0], [1, 1], [3], [-1]])
def test_a_row_is_graded_once(rows):
    grading = OverlappedGrading(CountdownGrader(), PROBLEMS[:3])
    grading.add([0], [""])
    with pytest.raises(ValueError, match="each row is graded once"):
        grading.add(rows, [""] * len(rows))
    with pytest.raises(ValueError, match="2 of 3 completions were never added"):
        grading.result()
