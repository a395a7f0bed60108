"""The conformance set: every case of ``cases.jsonl`` gets the verdict that a careful mathematician gives."""

import json
from collections import Counter
from pathlib import Path

import pytest

from extra_jax.data.problem import Problem
from extra_jax.reward.math import NAME, Options, grade_math
from extra_jax.reward.verdict import Verdict
from extra_jax.reward.workers import MathGrader

CASES = [json.loads(line) for line in (Path(__file__).parent / "cases.jsonl").read_text(encoding="utf-8").splitlines()]
OPTIONS = ("strict_thinking", "prompt_opens_thinking")


def options_of(case):
    return {name: case[name] for name in OPTIONS if name in case}


@pytest.mark.parametrize("case", CASES, ids=[f"{place}-{case['class']}" for place, case in enumerate(CASES)])
def test_case(case):
    grade = grade_math(case["gold"], case["response"], Options(**options_of(case)))
    assert grade.verdict == case["verdict"], f"{case['why']}: {grade}"
    assert grade.grader == NAME


def test_set_is_large_and_covers_every_verdict_that_text_can_get():
    assert len(CASES) >= 250
    assert all(set(case) >= {"gold", "response", "verdict", "why"} for case in CASES)
    assert len({json.dumps(case, sort_keys=True) for case in CASES}) == len(CASES)
    counts = Counter(case["verdict"] for case in CASES)
    assert set(counts) == {"correct", "wrong", "no_answer", "gold_unparseable"}
    assert min(counts["correct"], counts["wrong"]) >= 100


def test_workers_give_the_same_verdicts_as_the_function():
    plain = [case for case in CASES if not options_of(case)]
    problems = [Problem(str(place), "", case["gold"]) for place, case in enumerate(plain)]
    with MathGrader(options=Options()) as grader:
        grades = grader.grade(problems, [case["response"] for case in plain])
    assert [grade.verdict for grade in grades] == [Verdict(case["verdict"]) for case in plain]
