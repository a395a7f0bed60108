"""The grading function: extraction, exact numbers, the guard, and what it never does."""

import json
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extra_jax.answers.equality import equal
from extra_jax.answers.extract import after_thinking, complete_boxes, gold_answer, last_answer
from extra_jax.answers.latex import MAX_LENGTH, clean
from extra_jax.answers.syntax import parse
from extra_jax.answers.tokens import Reading, tokenize
from extra_jax.answers.verify import verify
from extra_jax.answers.vocabulary import MAX_DEPTH
from extra_jax.reward.math import Options, begin, gold_problem, grade_math, plain_rational
from extra_jax.reward.verdict import Grade, Verdict


def boxed(answer):
    return rf"So $\boxed{{{answer}}}$."


def verdict(gold, answer):
    return grade_math(gold, boxed(answer)).verdict


def tree(text):
    return parse(tokenize(clean(text), Reading()), Reading())


# -- extraction


def test_boxes_are_found_in_one_pass_whatever_the_braces():
    assert complete_boxes(r"\boxed{a{b}c} {\fbox {d} \boxed{\{e} \boxed{f")[0][2] == "a{b}c"
    assert [content for _, _, content in complete_boxes(r"x \boxed{1} \boxed{ \boxed{2} \boxed{3")] == ["1", "2"]
    assert last_answer(r"\boxed{" * 20_000) is None
    assert last_answer("{" * 20_000 + r"\boxed{7}" + "}" * 30_000).text == "7"
    started = time.process_time()
    assert grade_math("1", ", ".join([r"\boxed{1}"] * 100_000)).verdict == "wrong"
    assert time.process_time() - started < 5


def test_text_after_thinking():
    assert after_thinking("a</think>b</think>c", strict=True) == "c"
    assert after_thinking("<think>a", strict=True) is None
    assert after_thinking("<think>a", strict=False) == "<think>a"
    assert after_thinking("a", strict=True, prompt_opens_thinking=True) is None
    assert after_thinking("a</think>c", strict=True, prompt_opens_thinking=True) == "c"


def test_answer_and_reason_are_in_the_grade():
    grade = grade_math("56088", boxed(r"123 \times 456"))
    assert grade == Grade(Verdict.WRONG, r"123 \times 456", "math/2", "not worked out: product")
    assert grade_math("5", "no box").detail == "no complete box"
    assert grade_math("5", "<think>", Options(strict_thinking=True)).detail == "thinking was not closed"


# -- numbers


@given(st.fractions(max_denominator=10**6))
@settings(max_examples=60)
def test_fast_path_reads_fractions_exactly(value):
    assert plain_rational(rf"\frac{{{value.numerator}}}{{{value.denominator}}}") == value
    assert plain_rational(f"{value.numerator}/{value.denominator}") in (value, None)  # None for a leading minus


@given(st.integers(-(10**40), 10**40), st.integers(0, 30))
@settings(max_examples=60)
def test_fast_path_reads_decimals_exactly(digits, places):
    value = Fraction(digits, 10**places)
    sign, number = ("-" if digits < 0 else ""), str(abs(digits)).rjust(places + 1, "0")
    text = f"{sign}{number[: len(number) - places]}.{number[len(number) - places :]}"
    assert plain_rational(text) == value
    assert verdict(text, rf"\frac{{{digits}}}{{{10**places}}}") == Verdict.CORRECT
    assert verdict(text, rf"\frac{{{digits}}}{{{10**places + 1}}}") == (Verdict.WRONG if digits else Verdict.CORRECT)


@pytest.mark.parametrize("text", ["", "-", ".", "1/0", r"\frac{1}{0}", "1e5", "x", "1,23", "1 2", "9" * 2000])
def test_fast_path_leaves_everything_else_to_the_others(text):
    assert plain_rational(text) is None


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=5), st.integers(-9, 9))
@settings(max_examples=40)
def test_polynomials_are_equal_exactly_when_their_coefficients_are(coefficients, shift):
    text = " + ".join(f"({c})x^{{{power}}}" for power, c in enumerate(coefficients))
    horner = "0"
    for coefficient in reversed(coefficients):
        horner = f"({horner})x+({coefficient})"
    assert equal(tree(text), tree(horner)) is True
    assert equal(tree(text), tree(f"{horner}+({shift})")) is (shift == 0)


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        (r"\sqrt{5+2\sqrt6}", r"\sqrt2+\sqrt3", True),
        (r"\sqrt{5+2\sqrt6}-\sqrt2-\sqrt3", "0", True),
        (r"\sqrt[3]{2+\sqrt5}+\sqrt[3]{2-\sqrt5}", "1", True),
        (r"e^{\pi\sqrt{163}}", "262537412640768744", False),
        (r"\frac{1}{2004!}", r"\frac{1}{2006!}", False),
        (r"10^{30}+10^{-30}", r"10^{30}", False),
        (r"2^{3^4}", "2^{81}", True),
        (r"16\arctan\frac15-4\arctan\frac{1}{239}", r"\pi", True),
    ],
)
def test_equality_has_no_tolerance(left, right, same):
    assert equal(tree(left), tree(right)) is same


# -- the guard


@pytest.mark.parametrize("answer", [r"123 \times 456", "50000+6088", r"\sum_{k=1}^{56088} 1", r"\frac{112176}{1+1}"])
def test_guard_can_be_lifted_for_evaluation_of_other_data(answer):
    assert verdict("56088", answer) == Verdict.WRONG
    if "sum" not in answer:
        assert verify("56088", answer, allow_unevaluated=True)[0] == Verdict.CORRECT


# -- what it never does


def test_model_text_is_never_evaluated_as_code(tmp_path):
    target = tmp_path / "made"
    for text in (
        f'open("{target}","w")',
        f"__import__('pathlib').Path('{target}').touch()",
        f"exec('open({target!r})')",
    ):
        for gold in ("5", "x+1", r"\{1,2\}", r"\text{yes}", r"\int_0^1 x dx"):
            assert verdict(gold, text) != Verdict.CORRECT
            assert verdict(text, gold) != Verdict.CORRECT
    assert not target.exists()


@pytest.mark.parametrize(
    "answer",
    [
        "1+" * 50_000 + "1",
        "(" * 50_000 + "5" + ")" * 50_000,
        "{" * 2000 + "5" + "}" * 2000,
        r"\sqrt{" * 500 + "5" + "}" * 500,
        "-" * 4000 + "x",
        "1," * 2500,
        r"\frac" * 1000,
        "10**10**10",
        r"9^{9^{9^{9}}}",
        r"\binom{10^9}{5\cdot10^8}",
        "100000000!",
        r"((((10^{9})!)!)!)!",
        "x" * (MAX_LENGTH + 1),
        "(" * (MAX_DEPTH + 1) + "x" + ")" * (MAX_DEPTH + 1),
        "\x00\ud800",
    ],
)
def test_hostile_answers_are_wrong_with_a_reason_and_end_by_themselves(answer):
    grade = grade_math("7", boxed(answer))
    assert grade.verdict in (Verdict.WRONG, Verdict.NO_ANSWER)
    assert grade.detail


def test_an_exception_becomes_an_error_and_not_a_zero(monkeypatch):
    monkeypatch.setattr("extra_jax.reward.math.verify", lambda *args, **kwargs: [][0])
    grade = grade_math("x", boxed("y"))
    assert grade.verdict == Verdict.ERROR
    assert grade.detail.startswith("IndexError")


def test_grading_imports_no_jax():
    program = (
        "import sys; import extra_jax.reward.workers, extra_jax.reward.comparable; "
        "from extra_jax.reward.math import grade_math; grade_math('x', r'\\boxed{x+0}'); sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# -- golds


def test_gold_problem_names_what_cannot_be_graded_against():
    assert gold_problem(r"\frac{1}{2}") == ""
    assert gold_problem(" ") == "empty gold"
    assert gold_problem("np.arcsin(10/13)") != ""
    assert gold_problem(r"\frac{5055}{2^{15}") == "missing '}'"


def test_gold_against_itself_without_looking_at_the_text():
    """Each gold of the conformance set, spelled differently, is still correct."""
    lines = (Path(__file__).parents[1] / "answers" / "cases.jsonl").read_text(encoding="utf-8").splitlines()
    golds = {json.loads(line)["gold"] for line in lines}
    short = [gold for gold in golds if gold.strip() and gold_answer(gold) == gold and "if and only if" not in gold]
    readable = [gold for gold in short if not gold_problem(gold) and r"\text" not in gold]
    spelled = [rf"\displaystyle {{{gold.replace('frac', 'dfrac').strip('$')}}}" for gold in readable]
    wrong = [gold for gold, text in zip(readable, spelled, strict=True) if verdict(gold, text) != Verdict.CORRECT]
    assert not wrong


def test_a_gold_without_a_value_cannot_be_graded_against():
    assert verdict(r"\frac{1}{0}", "5") == Verdict.GOLD_UNPARSEABLE
    assert verdict("5", r"\frac{1}{0}") == Verdict.WRONG


def test_begin_needs_no_algebra_for_plain_numbers():
    assert isinstance(begin("12", boxed("12.0"), Options()), Grade)
    assert begin("x", boxed("x + 0"), Options()) == "x + 0"
