"""The generated task families: distinct, deterministic, verifiable, and never shared between splits."""

import random
import re
from fractions import Fraction
from itertools import combinations_with_replacement, permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extra_jax.data.problem import Problem
from extra_jax.data.tasks import chain, countdown
from extra_jax.data.tasks.family import split_name
from extra_jax.errors import ExtraError
from extra_jax.reward.countdown import CountdownGrader
from extra_jax.reward.verdict import Verdict

TASKS = {"countdown": countdown.generate, "chain": chain.generate}

seeds = st.integers(0, 2**32)
spans = st.tuples(st.integers(3, 4), st.integers(0, 2)).map(lambda pair: (pair[0], pair[0] + pair[1]))
countdowns = st.fixed_dictionaries(
    {"numbers": spans, "max_number": st.integers(8, 30), "max_target": st.integers(20, 200)}
)
chains = st.fixed_dictionaries(
    {"steps": spans, "max_operand": st.integers(5, 20), "max_value": st.integers(30, 999)},
)
difficulties = st.one_of(st.tuples(st.just("countdown"), countdowns), st.tuples(st.just("chain"), chains))


def draw(family, count, seed, split, **difficulty):
    return TASKS[family](count, seed=seed, split=split, **difficulty)


def run_steps(solution):
    """``(left, op, right, result)`` of every line, each checked."""
    steps = []
    for line in solution.splitlines():
        left, op, right, result = re.fullmatch(r"(\d+)([-+*/])(\d+)=(\d+)", line).groups()
        left, right, result = int(left), int(right), int(result)
        quotient = left // right if left % right == 0 else None
        assert {"+": left + right, "-": left - right, "*": left * right, "/": quotient}[op] == result
        steps.append((left, op, right, result))
    return steps


def reachable(numbers, ceiling, memo):
    """Targets reachable with all ``numbers``: splits the multiset into two halves, instead of walking steps."""
    if len(numbers) == 1:
        return {numbers[0]}
    if numbers not in memo:
        found = set()
        for mask in range(1, 2 ** len(numbers) - 1):
            ours = tuple(n for i, n in enumerate(numbers) if mask >> i & 1)
            theirs = tuple(n for i, n in enumerate(numbers) if not mask >> i & 1)
            for a in reachable(ours, ceiling, memo):
                for b in reachable(theirs, ceiling, memo):
                    found |= {a + b, a * b, a - b} | ({a // b} if a % b == 0 else set())
        memo[numbers] = {value for value in found if 0 < value <= ceiling}
    return memo[numbers]


@given(difficulties, seeds, difficulties, seeds)
@settings(max_examples=40, deadline=None)
def test_train_and_test_never_overlap_whatever_the_seed_and_difficulty(first, seed, second, other_seed):
    train = {p.uid for p in draw(first[0], 60, seed, "train", **first[1])}
    test = {p.uid for p in draw(second[0], 20, other_seed, "test", **second[1])}
    assert not train & test
    assert {split_name(uid) for uid in train} == {"train"}
    assert {split_name(uid) for uid in test} == {"test"}


@pytest.mark.parametrize("family", TASKS)
def test_about_one_problem_in_ten_is_held_out(family):
    train, test = (draw(family, 300, 0, split) for split in ("train", "test"))
    assert {p.source for p in train + test} == {family}
    assert 0.08 < sum(split_name(f"{family}/{i}") == "test" for i in range(20_000)) / 20_000 < 0.12


@given(difficulties, seeds, st.sampled_from(["train", "test"]))
@settings(max_examples=25, deadline=None)
def test_generation_is_deterministic_and_distinct(difficulty, seed, split):
    family, bounds = difficulty
    problems = draw(family, 30, seed, split, **bounds)
    assert problems == draw(family, 30, seed, split, **bounds)
    assert len({p.uid for p in problems}) == len({p.prompt for p in problems}) == 30
    assert problems != draw(family, 30, seed + 1, split, **bounds)


@given(countdowns, seeds)
@settings(max_examples=25, deadline=None)
def test_countdown_keeps_its_difficulty(bounds, seed):
    for problem in draw("countdown", 30, seed, "train", **bounds):
        numbers, target = countdown.numbers_and_target(problem)
        assert bounds["numbers"][0] <= len(numbers) <= bounds["numbers"][1]
        assert 1 <= min(numbers) <= max(numbers) <= bounds["max_number"]
        assert 1 <= target <= bounds["max_target"]
        assert target not in numbers
        ceiling = max(bounds["max_number"], bounds["max_target"])
        assert all(result <= ceiling for *_, result in run_steps(problem.solution))


def test_countdown_prompt_uid_and_answer_are_the_canonical_identity():
    for problem in draw("countdown", 200, 3, "train"):
        numbers, target = countdown.numbers_and_target(problem)
        assert list(numbers) == sorted(numbers)
        assert problem.uid == f"countdown/{target}:{','.join(map(str, numbers))}"
        assert problem.prompt == f"countdown {target}: {' '.join(map(str, numbers))}\n"
        assert problem.answer == str(target)
    assert countdown.render_prompt((3, 5, 8), 24) == "countdown 24: 3 5 8\n"


def test_countdown_reference_solutions_use_every_number_once_and_reach_the_target():
    for problem in draw("countdown", 300, 5, "train", numbers=(2, 6), max_number=30, max_target=300):
        numbers, target = countdown.numbers_and_target(problem)
        steps, available = run_steps(problem.solution), list(numbers)
        for left, _, right, result in steps:
            available.remove(left)
            available.remove(right)
            available.append(result)
        assert available == [target]


def test_countdown_targets_are_reachable_by_brute_force():
    memo = {}
    for problem in draw("countdown", 400, 7, "test", numbers=(3, 4), max_number=9, max_target=40):
        numbers, target = countdown.numbers_and_target(problem)
        assert target in reachable(numbers, 40, memo)


@pytest.mark.parametrize("split", ["train", "test"])
def test_countdown_family_is_exactly_what_brute_force_finds(split):
    bounds = {"numbers": (2, 3), "max_number": 5, "max_target": 20}
    memo, expected = {}, set()
    for size in (2, 3):
        for numbers in combinations_with_replacement(range(1, 6), size):
            targets = {t for t in reachable(numbers, 20, memo) if t not in numbers}
            expected |= {f"countdown/{t}:{','.join(map(str, numbers))}" for t in targets}
    expected = {uid for uid in expected if split_name(uid) == split}
    assert {p.uid for p in draw("countdown", len(expected), 1, split, **bounds)} == expected
    with pytest.raises(ExtraError, match=rf"{len(expected) + 1} distinct {split} .* only {len(expected)} at numbers"):
        draw("countdown", len(expected) + 1, 1, split, **bounds)


def test_countdown_references_are_diverse():
    bounds = {"numbers": (4, 4), "max_number": 4, "max_target": 20}
    by_uid = {}
    for seed in range(6):
        for problem in draw("countdown", 200, seed, "train", **bounds):
            by_uid.setdefault(problem.uid, set()).add(problem.solution)
    assert sum(len(solutions) > 1 for solutions in by_uid.values()) > 0.8 * len(by_uid)
    operators = [op for solutions in by_uid.values() for text in solutions for _, op, _, _ in run_steps(text)]
    assert all(operators.count(op) > 0.05 * len(operators) for op in "+-*/")


@given(chains, seeds)
@settings(max_examples=25, deadline=None)
def test_chain_keeps_its_difficulty_and_its_solution_is_right(bounds, seed):
    for problem in draw("chain", 30, seed, "train", **bounds):
        steps = run_steps(problem.solution)
        start, operations = problem.meta["start"], problem.meta["operations"]
        assert bounds["steps"][0] <= len(steps) <= bounds["steps"][1]
        assert operations == [f"{op}{operand}" for _, op, operand, _ in steps]
        assert problem.prompt == f"chain {start} {' '.join(operations)}\n"
        assert problem.uid == f"chain/{start}{''.join(operations)}"
        values = [start, *(result for *_, result in steps)]
        assert [left for left, *_ in steps] == values[:-1]
        assert all(1 <= value <= bounds["max_value"] for value in values)
        assert all(1 <= operand <= bounds["max_operand"] for _, _, operand, _ in steps)
        assert problem.answer == str(values[-1])


def test_chain_family_is_exactly_what_enumeration_finds():
    legal = set()
    operations = [f"{op}{n}" for op in "+-*" for n in (1, 2, 3) if (op, n) != ("*", 1)]
    for start in (1, 2, 3):
        for first, second in permutations([*operations, *operations], 2):
            mid = chain.apply(start, first[0], int(first[1:]))
            if 1 <= mid <= 9:
                legal |= {f"chain/{start}{first}"}
                if 1 <= chain.apply(mid, second[0], int(second[1:])) <= 9:
                    legal |= {f"chain/{start}{first}{second}"}
    expected = {uid for uid in legal if split_name(uid) == "train"}
    bounds = {"steps": (1, 2), "max_operand": 3, "max_value": 9}
    assert {p.uid for p in draw("chain", len(expected), 0, "train", **bounds)} == expected
    with pytest.raises(ExtraError, match=f"only {len(expected)} at steps"):
        draw("chain", len(expected) + 1, 0, "train", **bounds)


@pytest.mark.parametrize(
    ("family", "arguments", "message"),
    [
        ("countdown", {"split": "dev"}, "train and test"),
        ("countdown", {"count": 0}, "ask for at least 1"),
        ("countdown", {"numbers": (1, 3)}, "lowest at least 2"),
        ("countdown", {"numbers": (4, 3)}, "two whole numbers"),
        ("countdown", {"numbers": 4}, "two whole numbers"),
        ("countdown", {"max_target": 0}, "max_target is 0"),
        ("countdown", {"numbers": (3, 400)}, "highest at most 16"),
        ("countdown", {"numbers": (10**9, 10**9)}, "highest at most 16"),
        ("chain", {"steps": [0, 2]}, "lowest at least 1"),
        ("chain", {"steps": [1, 10**9]}, "highest at most 10,000"),
        ("chain", {"max_value": 1}, "max_value is 1"),
        ("chain", {"max_operand": 2.5}, "max_operand is 2.5"),
    ],
)
def test_impossible_requests_are_refused(family, arguments, message):
    count, split = arguments.pop("count", 5), arguments.pop("split", "train")
    with pytest.raises(ExtraError, match=message):
        draw(family, count, 0, split, **arguments)


def countdown_problem(numbers, target):
    return Problem("countdown/x", "", str(target), meta={"numbers": list(numbers), "target": target})


@pytest.mark.parametrize(
    ("numbers", "target", "rate"),
    [
        ((2, 3), 5, 1 / 3),  # sum, product, difference
        ((2, 4), 2, 2 / 4),  # 4-2 and 4/2 of four legal steps
        ((7, 7), 1, 1 / 3),  # 7-7 is no positive number
        ((2, 3), 7, 0.0),
        ((1, 1, 1), 3, 3 / 9 * 1 / 4),  # 1+1, of 1+1, 1*1 and 1/1; then 2+1, of four steps
    ],
)
def test_the_guesser_of_countdown_by_hand(numbers, target, rate):
    assert countdown.guess_rate(countdown_problem(numbers, target)) == pytest.approx(rate)


def test_the_guesser_is_the_share_of_random_walks_that_pass_the_grader():
    """Walks of another program: an operator of two positions at random, taken if the grader's rules allow it."""
    rng = random.Random(5)
    for problem in draw("countdown", 4, 0, "test"):
        hits, walks = 0, 3000
        for _ in range(walks):
            left, lines = [Fraction(n) for n in problem.meta["numbers"]], []
            while len(left) > 1:
                legal = [
                    (i, j, op, value)
                    for i, j in permutations(range(len(left)), 2)
                    for op, value in (
                        ("+", left[i] + left[j]),
                        ("*", left[i] * left[j]),
                        ("-", left[i] - left[j]),
                        ("/", left[i] / left[j]),
                    )
                    if value > 0
                    and value.denominator == 1
                    and not (op in "+*" and i > j)
                    and not (op == "/" and left[i] < left[j])
                ]
                # 4/4 counts once, whichever of the two is above
                legal = [m for m in legal if not (m[2] == "/" and left[m[0]] == left[m[1]] and m[0] > m[1])]
                i, j, op, value = rng.choice(legal)
                lines.append(f"{left[i]}{op}{left[j]}={value}")
                left = [n for k, n in enumerate(left) if k not in (i, j)] + [value]
                if value == problem.meta["target"]:
                    break
            grade = CountdownGrader().grade([problem], ["\n".join(lines) + "\n"])[0]
            hits += grade.verdict is Verdict.CORRECT
        rate = countdown.guess_rate(problem)
        assert abs(hits / walks - rate) < 5 * (rate * (1 - rate) / walks) ** 0.5


def test_walks_estimate_what_is_too_large_to_be_enumerated(monkeypatch):
    problem = countdown_problem((1, 2, 3, 4), 10)
    exact = countdown.guess_rate(problem)
    monkeypatch.setattr(countdown, "_EXACT_NUMBERS", 3)
    assert abs(countdown.guess_rate(problem) - exact) < 5 * (exact * (1 - exact) / 4000) ** 0.5
    assert countdown.guess_rate(problem) == countdown.guess_rate(problem)
