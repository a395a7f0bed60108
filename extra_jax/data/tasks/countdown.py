"""Countdown: reach a target with the given numbers. Many different solutions are correct.

Prompt ``"countdown 24: 3 5 8\\n"``; a completion is one step a line, ``"8-5=3\\n3*8=24\\n"``. A step takes
two operands out of what is left (given numbers and earlier results, each used at most once) and puts its
result back; all values are positive integers, division is exact, the last result is the target.

The canonical identity of a problem is its sorted numbers and its target; it is the uid, and a hash of it
decides the split. `extra_jax.reward.countdown` grades.
"""

import random
from collections.abc import Iterator
from functools import cache
from itertools import combinations, combinations_with_replacement

from extra_jax.data.problem import Problem
from extra_jax.data.tasks.family import check_bound, check_span, draw_distinct
from extra_jax.errors import ExtraError

FAMILY = "countdown"

_Step = tuple[int, str, int, int]
"""Left operand, operator, right operand, result."""

_EXACT_NUMBERS = 5  # 20 ms a problem; a sixth number makes it two seconds


def generate(
    count: int,
    *,
    seed: int,
    split: str,
    numbers: tuple[int, int] = (3, 4),
    max_number: int = 12,
    max_target: int = 60,
) -> list[Problem]:
    """Draws ``count`` distinct problems; a function of the arguments alone.

    The target is reachable with *all* the numbers, which makes their count the main knob of
    difficulty, and is none of the numbers itself; a solution may use fewer. The reference solution is
    the path of a random walk, so it is seldom the first in any order, and no value in it exceeds
    ``max(max_number, max_target)``.

    Args:
        seed: Seed of the draw and of the choice of reference solutions.
        split: ``"train"`` or ``"test"``; the two never share a problem, whatever seed or difficulty.
        numbers: Lowest and highest count of given numbers.

    Returns:
        Problems whose ``meta`` is ``{"numbers": sorted list, "target": int}``.

    Raises:
        ExtraError: Bad bounds, or fewer distinct problems at this difficulty than asked for.
    """
    low, high = check_span(FAMILY, "numbers", numbers, 2, 16)  # the legal steps grow with the square
    check_bound(FAMILY, "max_number", max_number, 1)
    check_bound(FAMILY, "max_target", max_target, 1)
    ceiling = max(max_number, max_target)

    def sample(rng: random.Random) -> Problem | None:
        given = tuple(sorted(rng.randint(1, max_number) for _ in range(rng.randint(low, high))))
        steps = _walk(given, ceiling, rng)
        return _problem(given, steps, max_target) if steps else None

    def listing(rng: random.Random) -> Iterator[Problem | None]:
        for size in range(low, high + 1):
            for given in combinations_with_replacement(range(1, max_number + 1), size):
                for steps in _every_walk(given, ceiling, rng):
                    yield _problem(given, steps, max_target) if len(steps) == size - 1 else None

    return draw_distinct(
        count,
        family=FAMILY,
        split=split,
        seed=seed,
        difficulty={"numbers": (low, high), "max_number": max_number, "max_target": max_target},
        sample=sample,
        listing=listing,
    )


def render_prompt(numbers: tuple[int, ...], target: int) -> str:
    """The prompt: ``"countdown 24: 3 5 8\\n"``."""
    return f"countdown {target}: {' '.join(map(str, numbers))}\n"


def numbers_and_target(problem: Problem) -> tuple[tuple[int, ...], int]:
    """Given numbers and target out of ``problem.meta``.

    Raises:
        ExtraError: The problem is no countdown, or its ``meta`` was damaged on the way.
    """
    numbers, target = problem.meta.get("numbers"), problem.meta.get("target")
    given = numbers if isinstance(numbers, list | tuple) else ()
    if given and type(target) is int and all(type(number) is int for number in given):
        return tuple(given), target
    raise ExtraError(
        f"problem {problem.uid!r} is no countdown: meta has numbers={numbers!r} and target={target!r}; "
        'it needs {"numbers": [int, ...], "target": int}.'
    )


def guess_rate(problem: Problem, walks: int = 4000) -> float:
    """Probability that uniformly random legal steps, which stop at the target, solve the problem.

    Exact for up to five numbers; beyond, the share of ``walks`` walks, drawn from the problem's identity (standard
    error below 0.008). A model that passes no more often has learned to write legal steps and nothing else.
    """
    numbers, target = numbers_and_target(problem)
    rng = random.Random(problem.uid)
    if len(numbers) > _EXACT_NUMBERS:
        return sum(_guesses(numbers, target, rng) for _ in range(walks)) / walks

    @cache
    def rate(values: tuple[int, ...]) -> float:
        moves = _moves(values, None, rng)
        return sum(1.0 if step[3] == target else rate(after) for step, after in moves) / len(moves) if moves else 0.0

    return rate(tuple(sorted(numbers)))


def _guesses(numbers: tuple[int, ...], target: int, rng: random.Random) -> bool:
    """Whether one random walk meets the target."""
    values = numbers
    while moves := _moves(values, None, rng):
        step, values = rng.choice(moves)
        if step[3] == target:
            return True
    return False


def _problem(given: tuple[int, ...], steps: tuple[_Step, ...], max_target: int) -> Problem | None:
    """The problem that these steps solve, or ``None`` where its target is out of bounds or given away."""
    target = steps[-1][3]
    if target > max_target or target in given:
        return None
    return Problem(
        uid=f"{FAMILY}/{target}:{','.join(map(str, given))}",
        prompt=render_prompt(given, target),
        answer=str(target),
        solution="".join(f"{left}{op}{right}={result}\n" for left, op, right, result in steps),
        source=FAMILY,
        meta={"numbers": list(given), "target": target},
    )


def _moves(values: tuple[int, ...], ceiling: int | None, rng: random.Random) -> list[tuple[_Step, tuple[int, ...]]]:
    """Every legal step from ``values`` with the sorted values after it; sums and products in a random order."""
    moves = []
    for i, j in combinations(range(len(values)), 2):
        small, large = sorted((values[i], values[j]))
        rest = values[:i] + values[i + 1 : j] + values[j + 1 :]
        left, right = (small, large) if rng.random() < 0.5 else (large, small)
        steps = [(left, "+", right, left + right), (left, "*", right, left * right)]
        if large > small:
            steps.append((large, "-", small, large - small))
        if large % small == 0:
            steps.append((large, "/", small, large // small))
        moves += [(step, tuple(sorted((*rest, step[3])))) for step in steps if ceiling is None or step[3] <= ceiling]
    return moves


def _walk(given: tuple[int, ...], ceiling: int, rng: random.Random) -> tuple[_Step, ...]:
    """Random legal steps until one value is left; empty when the walk runs into a dead end."""
    values: tuple[int, ...] = given
    steps: tuple[_Step, ...] = ()
    while len(values) > 1:
        moves = _moves(values, ceiling, rng)
        if not moves:
            return ()
        step, values = rng.choice(moves)
        steps += (step,)
    return steps


def _every_walk(given: tuple[int, ...], ceiling: int, rng: random.Random) -> Iterator[tuple[_Step, ...]]:
    """One random path to every set of values that can be reached from ``given``, shorter ones included."""
    seen = {given}
    pending: list[tuple[tuple[int, ...], tuple[_Step, ...]]] = [(given, ())]
    while pending:
        values, steps = pending.pop()
        moves = _moves(values, ceiling, rng)
        rng.shuffle(moves)
        for step, after in moves:
            if after not in seen:
                seen.add(after)
                pending.append((after, (*steps, step)))
                yield (*steps, step)
