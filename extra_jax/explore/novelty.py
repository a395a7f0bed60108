"""The novelty bonus of ExTra: correct completions that differ from the others are worth more.

    distance -> gate -> centre and scale -> cap          (all of it on ``[P, G]``, NaN where there is nothing)

Each is a transform of its own, and ``novelty`` is the chain that we recommend. A metric, a control or a cap of one's
own is another element in such a chain: ``bonus(distance(...), my_control(seed=0), standardise(...), cap(...))``.

Source: ``docs/methods/extra.md``.
"""

from typing import Any, Literal

import numpy as np

from extra_jax.explore.distance import Aggregate, Pool, allowed_pool, cosine_similarities, nearest
from extra_jax.explore.distance import aggregate as aggregated
from extra_jax.explore.door import BONUSES, Report, RunInfo, Transform, bonus, mean, stateless
from extra_jax.explore.history import History, Written
from extra_jax.explore.moments import Centring, Moments, centred, strength
from extra_jax.explore.step import Step
from extra_jax.telemetry.statistics import spearman


@BONUSES.register("novelty")
def novelty(
    alpha: float = 0.5,
    *,
    pool: Pool = "both",
    pool_filter: Literal["correct", "all"] = "correct",
    capacity: int | Literal["group"] | None = None,
    min_history: int | Literal["group"] = 0,
    remember_guided: bool = True,
    centring: Centring = "loo_correct",
    scaling: Literal["std_matched", "raw"] = "std_matched",
    cap_at: float | None = 3.0,
    cap_ratio: float | None = 1.5,
) -> Transform:
    """Adds the bonus to the advantages.

    Args:
        alpha: how strong: the standard deviation of the bonus, in units of advantage (``std_matched``), or a factor on
            distances (``raw``).
        pool: whom a completion is compared with: its group, earlier visits of the problem, or both.
        pool_filter: whether wrong completions are in the pool (``all``: as released).
        capacity: completions remembered of a problem; default: max(16, 2 G); ``group``: G, as released.
        min_history: remembered completions below which there is no distance; ``group``: G, as released.
        remember_guided: whether completions behind a prefix are remembered. They never get a bonus.
        centring: which baseline is taken off (``moments.centred``); ``none`` pays for being correct, too.
        scaling: see ``alpha``.
        cap_at: largest bonus, in multiples of alpha.
        cap_ratio: in groups with correct and wrong completions the bonus is at most ``|advantage|`` over this, so that
            from 1 on it cannot turn its sign.
    """
    far = distance(
        pool=pool, pool_filter=pool_filter, capacity=capacity, min_history=min_history, remember_guided=remember_guided
    )
    limit = None if cap_at is None else cap_at * alpha
    return bonus(far, correct_only(), standardise(alpha, centring=centring, scaling=scaling), cap(limit, cap_ratio))


def distance(
    *,
    aggregate: Aggregate = "nn",
    k: int = 3,
    pool: Pool = "both",
    pool_filter: Literal["correct", "all"] = "correct",
    capacity: int | Literal["group"] | None = None,
    min_history: int | Literal["group"] = 0,
    remember_guided: bool = True,
) -> Transform:
    """Replaces the values by ``1 - cosine`` with the nearest other completion of the problem, of plain prompts only.

    The vectors are those of ``explore.encoder``. NaN where there is nobody to compare with. Remembers the completions.

    Args:
        aggregate: over the pool: the nearest, the mean of the ``k`` nearest, or the mean of all.
        k: of ``knn``.
        pool, pool_filter, capacity, min_history, remember_guided: see ``novelty``.
    """

    def update(step: Step, values: np.ndarray, state: History) -> tuple[np.ndarray, History, Report]:
        size, plain = step.run.group_size, step.plain
        similar, allowed = compare(step, state, pool, pool_filter)
        least = size if min_history == "group" else min_history
        enough = np.array([state.size(uid) >= least for uid in plain.uids], bool)[:, None]
        defined = enough & allowed.any(axis=2)
        far = np.where(defined, aggregated(similar, allowed, aggregate, k), np.nan)
        far = plain.collect(far, size)
        report = _distance_report(step, far) | {"nearest": _nearest(step, similar, allowed, state)}
        room = size if capacity == "group" else capacity or max(16, 2 * size)
        return far, remember(step, state, room, ~step.guided | remember_guided), report

    def load(tree: dict, run: RunInfo) -> History:
        return History.load(tree)

    return Transform(lambda run: History(), update, History.save, load, reads=("vectors",))


def correct_only() -> Transform:
    """Only correct completions keep a value: novelty among wrong ones is worth nothing."""
    return stateless(lambda step, values, state: (np.where(step.correct, values, np.nan), state, {}))


def standardise(
    alpha: float,
    *,
    centring: Centring = "loo_correct",
    scaling: Literal["std_matched", "raw"] = "std_matched",
    decay: float = 0.95,
) -> Transform:
    """Centres the values by problem and brings them to the size ``alpha``.

    Centring and scaling are one transform because both rest on the running moments of the same distances.

    ``decay`` is that of the moments in a step; the other arguments are those of ``novelty``.
    """

    def update(step: Step, values: np.ndarray, state: Moments) -> tuple[np.ndarray, Moments, Report]:
        where, size = step.plain, step.run.group_size
        gate = where.spread(np.isfinite(values))
        known = where.spread(np.nan_to_num(values))
        now = state.updated(known, gate, decay)
        past = state if state.count else now
        factor = strength(alpha, scaling, now)
        scaled = np.where(gate, factor * centred(known, gate, centring, past), np.nan)
        report = {
            "novelty_within_std": now.within_std,
            "novelty_between_std": float(np.sqrt(now.between_variance)),
            "novelty_alpha_eff": factor,
        }
        return where.collect(scaled, size), now, report

    return Transform(lambda run: Moments(), update, lambda state: dict(vars(state)), lambda tree, run: Moments(**tree))


def cap(limit: float | None = None, ratio: float | None = None) -> Transform:
    """Clips the values to ``limit``, and in mixed groups to the size of the task's advantage over ``ratio``."""

    def update(step: Step, values: np.ndarray, state: dict) -> tuple[np.ndarray, dict, Report]:
        most = limits(step, limit, ratio)
        capped = np.abs(values) > most
        return np.clip(values, -most, most), state, {"bonus_capped_share": mean(capped[np.isfinite(values)])}

    return stateless(update)


def limits(step: Step, limit: float | None, ratio: float | None) -> np.ndarray:
    """``[P, G]`` largest absolute bonus, see ``cap``."""
    most = np.full(step.advantages.shape, np.inf if limit is None else limit)
    if ratio is not None:
        most = np.where(step.mixed[:, None], np.minimum(most, np.abs(step.advantages) / ratio), most)
    return most


def compare(
    step: Step, history: History, pool: Pool, pool_filter: Literal["correct", "all"]
) -> tuple[np.ndarray, np.ndarray]:
    """``[K, W, M + W]`` cosines of the completions of plain prompts with those remembered and with each other, and
    bool: 1 marks whom a completion is compared with."""
    where = step.plain
    past = [history.problems.get(uid) for uid in where.uids]
    vectors, correct = where.spread(step.vectors), where.spread(step.correct)
    most = max((len(p.correct) for p in past if p is not None), default=0)
    earlier = np.zeros((len(past), most, vectors.shape[2]), np.float32)
    counts = np.zeros((len(past), most), bool)
    for k, written in enumerate(past):
        if written is not None:
            earlier[k, : len(written.vectors)] = written.vectors
            counts[k, : len(written.correct)] = written.correct if pool_filter == "correct" else True
    siblings = where.present & (correct if pool_filter == "correct" else True)
    allowed = allowed_pool(counts, siblings, pool) & where.present[:, :, None]
    return cosine_similarities(vectors, earlier), allowed


def remember(step: Step, history: History, capacity: int, chosen: np.ndarray) -> History:
    """The history after a step, with the completions of the prompts ``chosen [P]`` (bool)."""
    problems, where = dict(history.problems), step.by_problem(chosen)
    correct, ids = step.correct.ravel(), step.rollout_ids.ravel()
    for uid, members in zip(where.uids, where.members, strict=True):
        rows = members[members >= 0]
        origins = np.stack([np.full(len(rows), step.index), ids[rows]], axis=1)
        now = Written(step.vectors[rows], correct[rows], origins)
        problems[uid] = problems[uid].followed_by(now, capacity) if uid in problems else now.last(capacity)
    return History(problems)


def _distance_report(step: Step, far: np.ndarray) -> dict[str, Any]:
    """How far correct completions are, and whether that is only their length."""
    right = np.isfinite(far) & step.correct
    d = far[right]
    return {
        "novelty": [None if np.isnan(x) else round(x, 6) for x in far.flat],
        "novelty_mean": mean(d),
        "novelty_std": float(np.std(d, ddof=1)) if len(d) > 1 else np.nan,
        "novelty_max": float(d.max(initial=0.0)),
        "novelty_length_spearman": spearman(d, step.lengths[right], decimals=6),
        "truncated_text_share": step.truncated_texts,
    }


def _nearest(step: Step, similar: np.ndarray, allowed: np.ndarray, history: History) -> list[str | None]:
    """``[N]`` the nearest neighbour of each completion as ``step:rollout_id`` of its record; its steps count from 1."""
    where, ids = step.plain, step.rollout_ids.ravel()
    index, width = nearest(similar, allowed), similar.shape[1]
    memory = similar.shape[2] - width
    names: list[str | None] = [None] * where.total
    for k, (uid, members) in enumerate(zip(where.uids, where.members, strict=True)):
        for w in np.flatnonzero(index[k] >= 0):
            place = index[k, w]
            if place < memory:
                origin, row = history.problems[uid].origins[place].tolist()
            else:
                origin, row = step.index, ids[members[place - memory]]
            names[members[w]] = f"{origin + 1}:{row}"
    return names
