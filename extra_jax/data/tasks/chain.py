"""Chain: arithmetic written one step a line. Long horizon, one right path.

Prompt ``"chain 7 +5 *3 -8\\n"``: start at 7, apply the operations from left to right. The reference solution
is ``"7+5=12\\n12*3=36\\n36-8=28\\n"``, the answer is the last result.

The canonical identity of a problem is its start and its operations in order; it is the uid, and a hash of it
decides the split. `extra_jax.reward.chain` grades, and counts how many reference steps a text establishes.
"""

import random
from collections.abc import Iterator

from extra_jax.data.problem import Problem
from extra_jax.data.tasks.family import check_bound, check_span, draw_distinct

FAMILY = "chain"


def generate(
    count: int,
    *,
    seed: int,
    split: str,
    steps: tuple[int, int] = (4, 8),
    max_operand: int = 9,
    max_value: int = 99,
) -> list[Problem]:
    """Draws ``count`` distinct problems; a function of the arguments alone.

    Every value on the way lies in ``1 .. max_value``: an operation that would leave it is not drawn.

    Args:
        split: ``"train"`` or ``"test"``; the two never share a problem, whatever seed or difficulty.
        steps: Lowest and highest count of operations.
        max_operand: Largest operand, and largest start.
        max_value: Largest start, intermediate value and answer.

    Returns:
        Problems whose ``meta`` is ``{"start": int, "operations": ["+5", "*3", ...]}``.

    Raises:
        ExtraError: Bad bounds, or fewer distinct problems at this difficulty than asked for.
    """
    low, high = check_span(FAMILY, "steps", steps, 1, 10_000)
    check_bound(FAMILY, "max_operand", max_operand, 1)
    check_bound(FAMILY, "max_value", max_value, 2)
    starts = range(1, min(max_operand, max_value) + 1)

    def sample(rng: random.Random) -> Problem | None:
        start = value = rng.choice(starts)
        operations = []
        for _ in range(rng.randint(low, high)):
            op, operands = rng.choice(_legal(value, max_operand, max_value))
            operand = rng.choice(operands)
            operations.append(f"{op}{operand}")
            value = apply(value, op, operand)
        return _problem(start, tuple(operations))

    def listing(_: random.Random) -> Iterator[Problem | None]:
        for start in starts:
            pending: list[tuple[int, tuple[str, ...]]] = [(start, ())]
            while pending:
                value, done = pending.pop()
                yield _problem(start, done) if len(done) >= low else None
                if len(done) < high:
                    pending += [
                        (apply(value, op, operand), (*done, f"{op}{operand}"))
                        for op, operands in _legal(value, max_operand, max_value)
                        for operand in operands
                    ]

    return draw_distinct(
        count,
        family=FAMILY,
        split=split,
        seed=seed,
        difficulty={"steps": (low, high), "max_operand": max_operand, "max_value": max_value},
        sample=sample,
        listing=listing,
    )


def apply(value: int, op: str, operand: int) -> int:
    """One operation; ``op`` is ``+``, ``-`` or ``*``."""
    match op:
        case "+":
            return value + operand
        case "-":
            return value - operand
        case "*":
            return value * operand
    raise ValueError(f"a chain has no operation {op!r}")


def _legal(value: int, max_operand: int, max_value: int) -> list[tuple[str, range]]:
    """The operators that keep ``1 <= value <= max_value``, each with its operands; never empty."""
    ranges = [
        ("+", range(1, min(max_operand, max_value - value) + 1)),
        ("-", range(1, min(max_operand, value - 1) + 1)),
        # Times one is no step.
        ("*", range(2, min(max_operand, max_value // value) + 1)),
    ]
    return [(op, operands) for op, operands in ranges if len(operands) > 0]


def _problem(start: int, operations: tuple[str, ...]) -> Problem:
    lines, value = [], start
    for operation in operations:
        result = apply(value, operation[0], int(operation[1:]))
        lines.append(f"{value}{operation}={result}\n")
        value = result
    return Problem(
        uid=f"{FAMILY}/{start}{''.join(operations)}",
        prompt=f"chain {start} {' '.join(operations)}\n",
        answer=str(value),
        solution="".join(lines),
        source=FAMILY,
        meta={"start": start, "operations": list(operations)},
    )
