"""What the generated task families share: held-out splits, distinct draws, difficulty checks."""

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

from extra_jax.data.problem import Problem
from extra_jax.errors import ExtraError

SPLITS = ("train", "test")

_TEST_BUCKETS, _BUCKETS = 1, 10
# Draws without a new problem after which we stop drawing and list the family instead. The rarer split
# holds a tenth of the problems, so an untouched family yields a new one about every tenth draw.
_PATIENCE = 2_000
# States that a listing may visit (a second or two); a family beyond it is never short in practice.
_LISTING_LIMIT = 500_000


def split_name(uid: str) -> str:
    """The one split that a problem belongs to, decided by a hash of its canonical identity.

    Neither seed nor difficulty enters, so a problem of one split can never turn up in the other,
    whatever runs generate them. About one problem in ten is a test problem.
    """
    bucket = int.from_bytes(hashlib.sha256(uid.encode()).digest()[:8], "big") % _BUCKETS
    return "test" if bucket < _TEST_BUCKETS else "train"


def draw_distinct(
    count: int,
    *,
    family: str,
    split: str,
    seed: int,
    difficulty: Mapping[str, Any],
    sample: Callable[[random.Random], Problem | None],
    listing: Callable[[random.Random], Iterator[Problem | None]],
) -> list[Problem]:
    """``count`` problems of one split with pairwise different uids; a function of the arguments alone.

    Args:
        family: Name of the family, for the random stream and for messages.
        split: ``"train"`` or ``"test"``.
        difficulty: Named bounds, for messages only.
        sample: Draws one problem, or ``None`` when the draw led nowhere.
        listing: Walks over the whole family; yields one item per visited state, ``None`` where the
            state is no problem. Used only when drawing no longer finds anything new.

    Raises:
        ExtraError: The family has fewer distinct problems at this difficulty than asked for.
    """
    if split not in SPLITS:
        raise ExtraError(f"{family}: split is {split!r}; a generated task has the splits {' and '.join(SPLITS)}.")
    if not isinstance(count, int) or count < 1:
        raise ExtraError(f"{family}: {count!r} problems were asked for; ask for at least 1.")
    # A string seed is hashed by `random` itself, the same way on every machine.
    rng = random.Random(f"{family}/{split}/{seed}")
    drawn: dict[str, Problem] = {}
    misses = 0
    while len(drawn) < count and misses < _PATIENCE:
        problem = sample(rng)
        if problem is None or problem.uid in drawn or split_name(problem.uid) != split:
            misses += 1
        else:
            drawn[problem.uid] = problem
            misses = 0
    if len(drawn) < count:
        _complete(drawn, count, family, split, difficulty, listing(rng), rng)
    return list(drawn.values())


def _complete(
    drawn: dict[str, Problem],
    count: int,
    family: str,
    split: str,
    difficulty: Mapping[str, Any],
    states: Iterator[Problem | None],
    rng: random.Random,
) -> None:
    """Fills ``found`` up to ``count`` from a listing of the family, or says how many there are."""
    rest: dict[str, Problem] = {}
    for problem in islice(states, _LISTING_LIMIT):
        if problem is not None and problem.uid not in drawn and split_name(problem.uid) == split:
            rest.setdefault(problem.uid, problem)
    total = len(drawn) + len(rest)
    if total < count:
        complete = next(states, states) is states
        bounds = ", ".join(f"{name}={value}" for name, value in difficulty.items())
        has = f"has only {total}" if complete else f"yields only {total} in reasonable time"
        raise ExtraError(
            f"{family}: {count} distinct {split} problems were asked for, but the family {has} at {bounds}. "
            "Ask for fewer or widen the difficulty."
        )
    for uid in rng.sample(list(rest), count - len(drawn)):
        drawn[uid] = rest[uid]


def check_span(family: str, name: str, value: Any, least: int, most: int) -> tuple[int, int]:
    """``value`` as an inclusive ``(lowest, highest)`` pair of whole numbers, from ``least`` to ``most``.

    Raises:
        ExtraError: Anything else.
    """
    pair = tuple(value) if isinstance(value, list | tuple) else ()
    if len(pair) != 2 or not all(type(bound) is int for bound in pair) or not least <= pair[0] <= pair[1] <= most:
        raise ExtraError(
            f"{family}: {name} is {value!r}; give two whole numbers (lowest, highest), lowest at least {least}, "
            f"highest at most {most:,}."
        )
    return pair


def check_bound(family: str, name: str, value: Any, least: int) -> int:
    """``value`` as a whole number of at least ``least``.

    Raises:
        ExtraError: Anything else.
    """
    if type(value) is not int or value < least:
        raise ExtraError(f"{family}: {name} is {value!r}; give a whole number of at least {least}.")
    return value
