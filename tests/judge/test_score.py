"""Scores out of text: probes of the released parser, and what ours makes of them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extra_jax.judge.score import expected_score, normalise, parse_score


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("Reasoning: fine.\nScore: 4", 4),
        ("**Score:** 4", 4),
        ("**Score**: 4/5", 4),
        ("Score: 4 out of 5", 4),
        ("Score\n4", 4),
        ("Score:\n\n4", None),
        ("Score: [4]", 4),
        (r"Score: \boxed{4}", 4),
        (r"**Score: $\boxed{4}$**", 4),
        ("score: 3", 3),
        ("Scores: 3", 3),
        ("Score (1-5): 3", 3),
        ("Score (1 to 5) = 2", 2),
        ("- Final score - 2.", 2),
        ("# Score: 5", 5),
        ("Score: 4.5", None),
        ("Score: 10", None),
        ("Score: 0", None),
        ("Score: 9", None),
        ("Score (1-5): 9", None),
        ("Score: 1-5", None),
        ("Score: high", None),
        ("Scoreboard: 3", None),
        ("the Score: 3", None),
        ("", None),
        ("Score: 2 if the step were wrong.\nReasoning: it is right.\nScore: 5", 5),
        ("Score: 2 at first.\nScore: 7", None),
    ],
)
def test_probes(text, score):
    parsed = parse_score(text)
    assert (parsed and parsed.score) == score
    if parsed:
        assert text[parsed.position] == str(score)


@given(st.text(), st.integers(1, 5))
def test_the_last_line_decides_whatever_stands_before(before, score):
    assert parse_score(f"{before}\nScore: {score}").score == score


@given(st.text(alphabet="Scores (1-5):=*[]\n4", max_size=60))
def test_what_is_found_is_always_a_whole_score(text):
    parsed = parse_score(text)
    assert parsed is None or (1 <= parsed.score <= 5 and text[parsed.position] == str(parsed.score))


def test_a_hostile_text_is_read_in_linear_time():
    parse_score("Score" + "(" * 200_000)
    parse_score("-" * 200_000 + "\n" + "Score: " + "*" * 200_000)


def test_expectation_against_the_definition():
    tokens = ["Reasoning", ": x\n", "Score", ":", " ", "4", "\n"]
    top = [[(t, 0.0)] for t in tokens]
    top[5] = [("4", math.log(0.5)), ("5", math.log(0.25)), (" 3", math.log(0.125)), ("x", math.log(0.125))]
    position = parse_score("".join(tokens)).position
    assert expected_score(position, tokens, top) == pytest.approx((4 * 0.5 + 5 * 0.25 + 3 * 0.125) / 0.875)
    top[5] = [("x", 0.0)]
    assert expected_score(position, tokens, top) is None


def test_scales():
    levels = np.array([1, 2, 3, 4, 5, np.nan])
    nan = np.nan
    for name, expected in {
        "smooth": [0, 0.25, 0.5, 0.75, 1, nan],
        "hard": [0, 0, 0, 1, 1, nan],
        "extremes": [0, nan, nan, nan, 1, nan],
        "semi_smooth": [0, nan, nan, 0.8, 1, nan],
    }.items():
        np.testing.assert_array_equal(normalise(levels, name), expected, err_msg=name)
