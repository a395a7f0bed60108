"""Other prefixes than the one of lowest entropy: ``explore.prompts.prefixes.choose`` of the arms P3 to P7 and S1."""

from dataclasses import replace

import numpy as np

from extra_jax.explore import Step, Transform, stateless
from extra_jax.explore.attempts import Choosing, Prefix, lowest
from extra_jax.explore.door import Report

Chosen = tuple[Prefix | None, float]


def at_random(among: Choosing) -> Chosen:
    """P3: any of the pool."""
    index = int(among.rng.integers(len(among.pool)))
    return among.pool[index], float(among.scores[index])


def position_matched(among: Choosing) -> Chosen:
    """P4: of equal position, whatever the score."""
    index = matched_position(among.pool, among.positions, among.rng)
    return among.pool[index], float(among.scores[index])


def matched_position(pool: list[Prefix], positions: np.ndarray, rng: np.random.Generator) -> int:
    """The prefix nearest to a place drawn from where the lowest scores have been so far.

    Args:
        pool: prefixes to choose from.
        positions: ``[bins]`` counts; nothing is preferred where they are all 0.
        rng: of the prompt and step.
    """
    total, bins = positions.sum(), len(positions)
    weights = positions / total if total else np.full(bins, 1.0 / bins)
    target = (rng.choice(bins, p=weights) + rng.random()) / bins
    return int(np.argmin([abs(prefix.fraction - target) for prefix in pool]))


def highest_entropy(among: Choosing) -> Chosen:
    """P5: the highest smoothed score."""
    index = lowest(-among.scores, among.first_tie, among.rng)
    return among.pool[index], float(among.scores[index])


def fresh(among: Choosing) -> Chosen:
    """P6: the prompt comes back without a prefix, as often as it would have with one."""
    chosen = among.pool[among.best]
    return replace(chosen, tokens=chosen.tokens[:0]), float(among.scores[among.best])


def wrong_problem(among: Choosing) -> Chosen:
    """P7: a prefix that another problem offered in this step; none where there is no other."""
    if not among.others:
        return None, float("nan")
    other = among.others[among.rng.integers(len(among.others))]
    return other, other.score


def half(among: Choosing) -> Chosen:
    """S1: half of the attempt, without a controller."""
    costs = np.array([abs(prefix.fraction - 0.5) for prefix in among.pool])
    index = lowest(costs, among.first_tie, among.rng)
    return among.pool[index], float(among.scores[index])


def no_negative_advantage() -> Transform:
    """P9, a bonus: behind a prefix no advantage is negative, the authors' later change."""

    def update(step: Step, values: np.ndarray, state: dict) -> tuple[np.ndarray, dict, Report]:
        return np.where(step.guided[:, None], np.maximum(values, 0.0), values), state, {}

    return stateless(update)
