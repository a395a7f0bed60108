"""Can the grader read the answers of a data set? For checking data before a run."""

from collections.abc import Sequence

from extra_jax.reward.math import plain_rational
from extra_jax.reward.workers import WorkerPool


def gold_problems(golds: Sequence[str]) -> list[str]:
    """Why ``math`` cannot grade against each of the answers, ``""`` where it can; read in killable processes."""
    open_ = [gold for gold in dict.fromkeys(golds) if plain_rational(gold) is None]
    reasons: dict[str, str] = {}
    if open_:
        with WorkerPool("extra_jax.reward.math:gold_problem") as pool:
            outcomes = [future.result() for future in [pool.submit(gold) for gold in open_]]
        reasons = {
            gold: outcome.value if outcome.status == "done" else f"{outcome.status}: {outcome.detail}"
            for gold, outcome in zip(open_, outcomes, strict=True)
        }
    return [reasons.get(gold, "") for gold in golds]
