"""Scores out of text: probes of the released parser, and what ours makes of them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
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
        # the same number, written otherwise
        ("Score: 4.0", 4),
        ("Score: 4,0", 4),
        ("Score [1-5]: 4", 4),
        ("Score (out of 5): 4", 4),
        ("Score: 4.", 4),
        ("Score: 4 likely", 4),
        ("Score: 4 - likely: correct, with trivial gaps", 4),
        ("**Final Score: 4/5 (Elevated)**", 4),
        ("Score: 4 (on a scale of 1-5)", 4),
        ('```json\n{"score": 4, "reason": "fine"}\n```', 4),
        ("<score>4</score>", 4),
        ("Score: 5 out of 5 stars", 5),
        # another scale, another number, or several
        ("Score: 4 out of 10", None),
        ("Score: 4 (out of 10)", None),
        ("Score: 4 (on a scale of 1 to 10)", None),
        ('{"score": 4, "max_score": 10}', None),
        ("Score (1-10): 4", None),
        ("Score (0-5): 4", None),
        ("Score: 3/4", None),
        ("Score: 4/50", None),
        ("Score: 4%", None),
        ("Score: -1", None),
        ("Score: .5", None),
        ("Score: ≤4", None),
        ("Score: < 4", None),
        ("Score: 4 or 5", None),
        ("Score: 1, 2, 3, 4, or 5", None),
        ("Score: 3–4", None),
        ("Score: 4 → 5", None),
        ("Score: 4^2", None),
        ("Score: ٤", None),
        ("Score: 5\nScore: N/A", None),
        # prose and quotations state nothing
        ("Score: 4\n\nScore 5 would require a complete proof of step 3.", 4),
        ("Score: 4\nScore 5 is not justified because the last step is missing.", 4),
        ("Score: 4\nScore: 5 would need more", 4),
        ("Score 5: very likely\nScore 1: very unlikely\n\nReasoning: fine\nScore: 4", 4),
        ("Score: 2\n> Score: 5", 2),
        ('Score: 2\n"Score: 5" is what it asks for', 2),
        ("Score\n1. The first step is right.", None),
        # thoughts
        ("<think>\nThe trace seems wrong.\nScore: 2\nBut wait", None),
        ("Okay.\n<think>\nScore: 2\nBut wait", None),
        ("Score: 2 at first sight</think>\n\nI cannot grade this.", None),
        ("<think>\nScore: 2\n</think>\n\nScore: 4", 4),
        ("<think>\nScore: 3\n</think>\n\nThe final score is 4.", None),
        ("[THINK]Score: 2[/THINK]Score: 4", 4),
        ("<|channel|>analysis<|message|>Score: 2", None),
        ("The trace begins with <think> and goes on.\nScore: 4", 4),
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


LABELS = (
    "Score: ",
    "**Score:** ",
    "score = ",
    "Final score: ",
    "# Score\n",
    "Score (1-5): ",
    '{"score": ',
    "| Score | ",
)
WRAPPERS = ("{}", "**{}**", "[[{}]]", r"\boxed{{{}}}", "${}$", "{}.0", "{}/5", "{} / 5.0", "{} out of 5")
ENDS = (
    "",
    ".",
    "\n",
    " **",
    " (likely)",
    " - a gap in the 2nd step",
    "\n\nThat is all.",
    "\n> Score: 1",
    "\nScore 5 would be odd",
)
THOUGHTS = (
    "",
    "<think>\nScore: 1\n</think>\n",
    "Score: 1\nhm</think>",
    "Score: 1\n",
    '"Score: 9"\n',
    "Score 5: likely\n",
)
OTHERS = (
    "{} or 1",
    "{}-5",
    "{} to 5",
    "{}.5",
    "{}0",
    "-{}",
    "{}%",
    "{}/10",
    "{} out of 10",
    "{}, 5",
    "{} (of 10)",
    "~{}",
    "{}+",
)


@given(*map(st.sampled_from, (THOUGHTS, LABELS, WRAPPERS, ENDS)), st.integers(1, 5))
@settings(max_examples=400, deadline=None, derandomize=True)
def test_a_composed_reply_has_the_score_that_it_was_made_of(thought, label, wrapper, end, score):
    if label.endswith("\n"):  # under a heading the number stands alone
        end = end if end[:1] in ("", ".", "\n") else ""
    text = thought + label + wrapper.format(score) + end
    parsed = parse_score(text)
    assert parsed is not None, text
    assert (parsed.score, text[parsed.position]) == (score, str(score))


@given(*map(st.sampled_from, (THOUGHTS, LABELS, OTHERS)), st.integers(1, 5))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_a_composed_number_that_is_no_score_is_none(thought, label, other, score):
    if not label.endswith("\n"):  # under a heading it states nothing, and an earlier line counts
        assert parse_score(thought + label + other.format(score)) is None


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("Score: 4\n", 4),
        ("Score: 4/5", 4),
        ("**Score: 4**", 4),
        ("Score: 4", None),  # of 40?
        ("Score: 4.", None),  # of 4.5?
        ("Score: 5\nand claims to be verified. Let me check", None),  # a quotation
        ("<think>\nScore: 4\n", None),
    ],
)
def test_a_reply_that_was_cut_has_a_score_only_on_a_finished_last_line(text, score):
    parsed = parse_score(text, cut=True)
    assert (parsed and parsed.score) == score


def expectation(text, tokens, **tops):
    top = [tops.get(f"at_{place}", [(token, 0.0)]) for place, token in enumerate(tokens)]
    return expected_score(text, parse_score(text), tokens, top)


def test_expectation_against_the_definition():
    tokens = ["Reasoning", ": x\n", "Score", ":", " ", "4", "\n"]
    top = [("4", math.log(0.5)), ("5", math.log(0.25)), (" 3", math.log(0.125)), ("x", math.log(0.125))]
    assert expectation("".join(tokens), tokens, at_5=top) == pytest.approx((4 * 0.5 + 5 * 0.25 + 3 * 0.125) / 0.875)
    assert expectation("".join(tokens), tokens, at_5=[("x", 0.0)]) is None
    assert expectation("".join(tokens), tokens, at_5=[("4", 1e9), ("5", float("nan")), ("1", -9999.0)]) == 4.0


def test_expectation_is_read_at_the_digit_wherever_the_tokens_differ_from_the_text():
    top = [("4", math.log(0.95)), ("3", math.log(0.05))]
    blank = [(" ", 0.0), ("5", math.log(0.02)), ("1", math.log(0.01))]
    text = "Step 2 uses 𝑥 ≤ 1.\nScore: 4"
    split = ["Step 2 uses ", "\ufffd", "\ufffd", "\ufffd", " ≤", " 1.\n", "Score", ":", " ", "4"]
    assert expectation(text, split, at_8=blank, at_9=top) == pytest.approx(3.95)
    named = ["Step 2 uses ", "bytes:\\xf0\\x9d\\x91", "bytes:\\xa5", " ≤ 1.\n", "Score", ":", " ", "4", "<|im_end|>"]
    assert expectation(text, named, at_6=blank, at_7=top) == pytest.approx(3.95)
    thought = ["Score", ":", " ", "4", "</think>", "\n", "Score", ":", " ", "4", "\n", "Score 5", " would"]
    assert expectation("\nScore: 4\nScore 5 would", thought, at_3=blank, at_9=top) == pytest.approx(3.95)
    twice = ["Score", ":", " ", "4", "\n", "Score", ":", " ", "4", " would", " do"]
    assert expectation("Score: 4\nScore: 4 would do", twice, at_3=top, at_8=blank) == pytest.approx(3.95)
    joined = ["Score", ": 4"]
    assert expectation("Score: 4", joined, at_1=top) is None, "the token is more than the digit"
    assert expectation("Score: 4", ["token_id:7", "token_id:19"], at_1=top) is None


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
