"""Majority voting against a slow definition, and what counts as one answer."""

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extra_jax.reward.chain import ChainGrader
from extra_jax.reward.comparable import MathVerifyGrader, StrictBoxGrader
from extra_jax.reward.countdown import CountdownGrader
from extra_jax.reward.majority import majority_scores
from extra_jax.reward.verdict import ComparesAnswers
from extra_jax.reward.workers import Limits, MathGrader

GOLD = "1"


class Numbers:
    """Answers are one when their values are, however they are written."""

    def same_answers(self, pairs):
        return [Fraction(one) == Fraction(other) for one, other in pairs]


def score(answers, grader=None):
    verdicts = [
        "no_answer" if a is None else "correct" if Fraction(a) == Fraction(GOLD) else "wrong" for a in answers
    ]  # fmt: skip
    (value,) = majority_scores([verdicts], [answers], grader or Numbers())
    return value


samples = st.lists(st.sampled_from([None, "1", "2/2", "3", "6/2", "4", "8/2", "5"]), min_size=1, max_size=12)


@given(samples)
@settings(deadline=None)
def test_the_score_is_the_share_of_leading_answers_that_are_correct(answers):
    votes = Counter(Fraction(answer) for answer in answers if answer is not None)
    leaders = [value for value, count in votes.items() if count == max(votes.values())]
    assert score(answers) == pytest.approx(leaders.count(Fraction(GOLD)) / len(leaders) if leaders else 0.0)


@given(samples, st.randoms())
@settings(deadline=None)
def test_the_order_of_the_samples_does_not_matter(answers, random):
    shuffled = answers.copy()
    random.shuffle(shuffled)
    assert score(answers) == score(shuffled)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["1", "1", "3"], 1.0),
        (["1", "3", "6/2"], 0.0),
        (["1", "3"], 0.5),
        (["1", "3", "4"], pytest.approx(1 / 3)),
        (["1", None, None, None], 1.0),
        ([None, None], 0.0),
    ],
)
def test_ties_count_by_share_and_samples_without_an_answer_do_not_vote(answers, expected):
    assert score(answers) == expected


def test_problems_are_voted_on_apart():
    verdicts = [["correct", "wrong", "wrong"], ["correct", "correct", "wrong"], ["wrong"] * 3]
    assert majority_scores(verdicts, [["1", "3", "6/2"], ["1", "1", "3"], ["3"] * 3], Numbers()) == [0.0, 1.0, 0.0]


def test_the_maths_grader_reads_answers_before_it_compares_them():
    pairs = [
        ("0.5", r"\frac{1}{2}"), (r"\sqrt{8}", r"2\sqrt{2}"), ("2x+1", "1+2x"), ("(1,2)", "(2,1)"), ("3", "4"),
        ("1,000", "1000"), (r"\frac{", r"\frac{"), ("12", "3+9"),
    ]  # fmt: skip
    with MathGrader(limits=Limits(deadline_seconds=20)) as grader:
        assert isinstance(grader, ComparesAnswers)
        same = grader.same_answers(pairs)
        assert same == [True, True, True, False, False, True, True, True]
        assert grader.same_answers([pair[::-1] for pair in pairs]) == same
        answers = ["7", "\\frac{1}{2}", "0.5", "7", "\\frac{2}{4}"]
        verdicts = ["correct" if answer == "7" else "wrong" for answer in answers]
        assert majority_scores([verdicts], [answers], grader) == [0.0], "one half has three votes"


def test_other_graders_compare_as_they_grade():
    assert ChainGrader().same_answers([("7", "07"), ("7", "8")]) == [True, False]
    assert StrictBoxGrader().same_answers([("5", "5"), ("5.0", "5")]) == [True, False]
    assert not isinstance(CountdownGrader(), ComparesAnswers), "a countdown has many right answers"


def test_plain_math_verify_compares_what_it_printed():
    with MathVerifyGrader(workers=1) as grader:
        assert grader.same_answers([("1/2", "1/2"), ("1/2", "0.5")]) == [True, False]
