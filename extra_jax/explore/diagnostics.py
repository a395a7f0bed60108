"""Distributions behind the means of ``metrics``: histograms, deciles, and what lasts from visit to visit (extra.md d).

A histogram is one share a bin, ``NAME_0`` and on: equal bins of [0, 1] from low to high, whose shares add up to 1.
Values outside count in the nearest bin. Nothing is logged where there is nothing to count.
"""

from collections.abc import Sequence

import numpy as np

from extra_jax.explore.injection import Slot
from extra_jax.explore.metrics import named, spearman
from extra_jax.explore.novelty import Layout, Measured, Rows
from extra_jax.explore.proposals import Decisions
from extra_jax.explore.state import ExplorationState
from extra_jax.parallel.processes import allgather
from extra_jax.rollout.types import Rollouts

SIMILARITY_BINS = 20
DECILES = 10
DEEPEST = 5  # depths from here on share one bin


def histogram(name: str, values: Sequence[float] | np.ndarray, bins: int) -> dict[str, float]:
    """Shares of ``values`` in ``bins`` equal bins of [0, 1]; a lower edge belongs to its bin, and 1 to the last."""
    values = np.asarray(values, np.float64)
    if not values.size:
        return {}
    # not numpy.histogram, whose rounded edges put a pass rate of 3/10 into the third tenth
    counts = np.bincount(np.clip(np.floor(values * bins), 0, bins - 1).astype(np.int64), minlength=bins)
    digits = len(str(bins - 1))
    return {f"{name}_{i:0{digits}d}": count / values.size for i, count in enumerate(counts)}


def reward_diagnostics(rows: Rows, slots: Sequence[Slot], advantages: np.ndarray) -> dict[str, float]:
    """Pass rates of plain prompts, and how many completions the advantages ``[N]`` of the step weigh like.

    ``advantage_ess`` is ``(sum |A|)^2 / sum A^2`` in completions: ``N`` where all are of one size (c.6).
    """
    plain = np.array([slot.guided is None for slot in slots])
    size = np.abs(advantages)
    found = histogram("pass_rate_hist", rows.correct.reshape(len(slots), -1).mean(axis=1)[plain], DECILES)
    squares = float((size**2).sum())
    found["advantage_ess"] = float(size.sum() ** 2 / squares) if squares else 0.0
    found["advantage_nonzero_share"] = float((size > 0).mean())
    return named(found)


def entropy_deciles(rollouts: Rollouts, plain: np.ndarray) -> dict[str, float]:
    """Mean token entropy (nats) by tenth of the completion: token ``t`` of ``L`` is in tenth ``floor(10 t / L)``.

    All processes call it together; a guided completion begins in the middle of an answer and is left out.

    Args:
        rollouts: of this process.
        plain: ``[R]`` bool.
    """
    mask = rollouts.completion_mask & plain[:, None]
    tenth = DECILES * np.arange(mask.shape[1]) // np.maximum(rollouts.lengths, 1)[:, None]
    entropies = rollouts.entropies[mask].astype(np.float64)
    mine = np.stack([np.bincount(tenth[mask], weights, DECILES) for weights in (entropies, np.ones(len(entropies)))])
    total, count = allgather(mine[None]).sum(axis=0)
    return named({f"entropy_decile_{i}": total[i] / count[i] for i in range(DECILES) if count[i]})


def novelty_diagnostics(rows: Rows, where: Layout, measured: Measured, state: ExplorationState) -> dict[str, float]:
    """Similarities of correct completions, and whether a prompt's novelty lasts; before ``note_novelty``.

    ``similarity_hist``: ``1 - distance``, which ``aggregate=nn`` makes the cosine with the nearest neighbour.
    ``novelty_previous_spearman``: over prompts, mean novelty of now and of the last visit that had one.
    """
    right = where.spread(rows.correct) & measured.defined
    now = _means(where, right, measured)
    pairs = [(value, state.prompts[uid].novelty) for uid, value in now.items() if uid in state.prompts]
    both = np.array([pair for pair in pairs if pair[1] is not None]).reshape(-1, 2)
    found = histogram("similarity_hist", 1.0 - measured.real.values[right], SIMILARITY_BINS)
    return named(found | {"novelty_previous_spearman": spearman(both[:, 0], both[:, 1])})


def note_novelty(rows: Rows, where: Layout, measured: Measured, state: ExplorationState) -> None:
    """Keeps the mean novelty of each prompt for its next visit; without a correct completion the old one stays."""
    right = where.spread(rows.correct) & measured.defined
    for uid, value in _means(where, right, measured).items():
        state.prompt(uid).novelty = value


def prefix_diagnostics(done: Decisions, slots: Sequence[Slot], max_depth: int | None) -> dict[str, float]:
    """Where the chosen prefixes were cut, of their attempts, and how deep the injected ones are.

    ``guided_depth_D`` is the share of guided prompts of depth ``D``, from 5 on in one; only where prefixes of prefixes
    are allowed.
    """
    cuts = [pool[choice.index].fraction for pool, choice in zip(done.pools, done.real, strict=True)]
    found = histogram("cut_decile", cuts, DECILES)
    depths = np.array([min(s.guided.prefix.depth, DEEPEST) for s in slots if s.guided is not None], np.int64)
    if max_depth != 1 and depths.size:
        deepest = DEEPEST if max_depth is None else min(max_depth, DEEPEST)
        found |= {f"guided_depth_{d}": float((depths == d).mean()) for d in range(1, deepest + 1)}
    return named(found)


def _means(where: Layout, right: np.ndarray, measured: Measured) -> dict[str, float]:
    """Mean real distance of the completions ``right [K, W]`` of each problem that has any."""
    values = measured.real.values
    return {uid: float(values[k, right[k]].mean()) for k, uid in enumerate(where.uids) if right[k].any()}
