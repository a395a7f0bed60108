"""The largest settings that fit, each verified by the compiler."""

from collections.abc import Callable

from extra_jax.config import Config
from extra_jax.errors import ExtraError
from extra_jax.plan.verdict import SLOT_PROGRAMS, Plan

_MOST_COMPILATIONS = 8

Planner = Callable[[Config, tuple[str, ...]], Plan]
"""(configuration, programs to compile) -> plan."""


def largest_settings(config: Config, shards: int, planner: Planner, tell: Callable[[str], None]) -> Config:
    """The configuration with the largest ``train.micro_batch_rows`` and ``rollout.slots`` that fit.

    Args:
        shards: ways that rows are split into; slots are a multiple of it.
        planner: makes a plan.
        tell: called with one line about every try.

    Raises:
        ExtraError: one row, or one slot a shard, is too much already; with the verdict.
    """

    def with_rows(rows: int) -> Config:
        return config.model_copy(update={"train": config.train.model_copy(update={"micro_batch_rows": rows})})

    def with_slots(slots: int) -> Config:
        return config.model_copy(update={"rollout": config.rollout.model_copy(update={"slots": slots * shards})})

    def tries(name: str, change: Callable[[int], Config], *programs: str) -> Callable[[int], Plan]:
        def one(value: int) -> Plan:
            plan = planner(change(value), programs)
            need, limit = plan.memory[plan.fullest].total / 2**30, plan.limit / 2**30
            tell(f"{name.format(value)}: {need:.2f} of {limit:.2f} GiB, {'fits' if plan.fits else 'too large'}")
            return plan

        return one

    rows = largest(tries("train.micro_batch_rows={}", with_rows, "update"), config.train.minibatch_size)
    config = with_rows(rows)
    most = -(-config.train.completions_per_step // shards)
    return with_slots(largest(tries("{} slots a shard", with_slots, *SLOT_PROGRAMS), most))


def largest(attempt: Callable[[int], Plan], most: int) -> int:
    """The largest value from 1 to ``most`` whose plan fits, by secants between values that do and do not.

    Memory grows about linearly, so a few tries do; the value returned was tried, and after the last try the next
    larger one that was tried did not fit.
    """
    plans = {1: attempt(1)}
    if not plans[1].fits:
        raise ExtraError(plans[1].sentence())
    low, high = 1, most + 1
    while high - low > 1 and len(plans) < _MOST_COMPILATIONS:
        guess = min(2 * low, most) if len(plans) == 1 else _secant(plans)
        guess = min(max(guess, low + 1), high - 1)
        plans[guess] = attempt(guess)
        low, high = (guess, high) if plans[guess].fits else (low, guess)
    return low


def _secant(plans: dict[int, Plan]) -> int:
    """Where the line through the two values nearest to the limit meets it."""

    def total(value: int) -> int:
        return plans[value].memory[plans[value].fullest].total

    limit = plans[1].limit
    one, other = sorted(sorted(plans, key=lambda value: abs(total(value) - limit))[:2])
    slope = (total(other) - total(one)) / (other - one)
    return int(one + (limit - total(one)) / slope) if slope > 0 else 2 * max(plans)
