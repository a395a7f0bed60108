"""Novelty of the completions of one step: from vectors and n-grams to distances and a bonus for each row.

Rows are all completions of the step, of all processes: ``[N]``. Those of one problem stand together in ``[K, W]``
arrays (``Layout``), also where a problem comes twice in a step.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from extra_jax.config import ExploreConfig, NoveltyConfig
from extra_jax.explore.bonus import Bonus, Scales, bonus, strength
from extra_jax.explore.controls import Identity, controlled, quantile_map
from extra_jax.explore.distance import Distances, allowed_pool, cosine_similarities, distances, surprise
from extra_jax.explore.lexical import count_novelty, jaccard_similarities
from extra_jax.explore.state import ExplorationState, PromptState
from extra_jax.explore.yoke import Recorded


@dataclass(frozen=True)
class Rows:
    """What is known of each completion of a step; ``[N]`` over all processes.

    Attributes:
        slot: index of the slot.
        rollout_ids: identity in the step.
        lengths: tokens.
        logprobs: nats, summed over the completion.
        entropies: nats, mean over the completion.
        correct: verdict.
        valid: 1 where the verdict says something about the policy.
        truncated: cut at the length cap.
        rewards: before normalisation.
        vectors: ``[N, E]`` f32 of length 1, or ``None``.
        codes: n-gram codes in order, or empty.
    """

    slot: np.ndarray
    rollout_ids: np.ndarray
    lengths: np.ndarray
    logprobs: np.ndarray
    entropies: np.ndarray
    correct: np.ndarray
    valid: np.ndarray
    truncated: np.ndarray
    rewards: np.ndarray
    vectors: np.ndarray | None = None
    codes: Sequence[np.ndarray] = field(default=())


@dataclass(frozen=True)
class Layout:
    """Rows by problem.

    Attributes:
        uids: ``[K]``.
        members: ``[K, W]`` row indices, -1 where a problem has fewer.
    """

    uids: list[str]
    members: np.ndarray

    @property
    def present(self) -> np.ndarray:
        """``[K, W]`` bool."""
        return self.members >= 0

    def spread(self, values: np.ndarray) -> np.ndarray:
        """``[N, ...]`` -> ``[K, W, ...]``; zero where nobody is."""
        taken = values[self.members]
        taken[~self.present] = 0
        return taken

    def collect(self, values: np.ndarray, total: int) -> np.ndarray:
        """``[K, W, ...]`` -> ``[N, ...]``; zero for rows that stand nowhere."""
        rows = np.zeros((total, *values.shape[2:]), values.dtype)
        rows[self.members[self.present]] = values[self.present]
        return rows


def layout(keys: Sequence[str | None]) -> Layout:
    """Rows of equal key together, in order of appearance; ``None`` leaves a row out."""
    groups: dict[str, list[int]] = {}
    for row, key in enumerate(keys):
        if key is not None:
            groups.setdefault(key, []).append(row)
    members = np.full((len(groups), max(map(len, groups.values()), default=1)), -1, np.int64)
    for index, rows in enumerate(groups.values()):
        members[index, : len(rows)] = rows
    return Layout(list(groups), members)


@dataclass(frozen=True)
class Measured:
    """Distances of a step, ``[K, W]``.

    Attributes:
        real: of embeddings, in every arm.
        used: those that the bonus is made of.
        gate: bool, who may get a bonus.
        defined: bool, where the real distance means something: enough history and somebody to compare with.
        used_defined: bool, likewise for the distances used.
        nearest: ``[K, W, 2]`` step and rollout id of the nearest neighbour, -1 where there is none.
        lexical: distances of n-gram sets among siblings and history, or ``None``.
    """

    real: Distances
    used: Distances
    gate: np.ndarray
    defined: np.ndarray
    used_defined: np.ndarray
    nearest: np.ndarray
    lexical: np.ndarray | None = None


def measure(
    rows: Rows,
    where: Layout,
    state: ExplorationState,
    config: ExploreConfig,
    *,
    group: int,
    seed: int,
    step: int,
    recorded: Recorded | None = None,
) -> Measured:
    """Distances of every completion, and those that the arm uses.

    Args:
        rows: of the step.
        where: the rows that novelty looks at, by problem.
        state: of exploration, before this step.
        config: of exploration.
        group: completions a prompt.
        seed: of the run.
        step: of the run.
        recorded: of the run that a control is yoked to, in this step.
    """
    settings = config.novelty
    prompts = [state.prompts.get(uid, PromptState()) for uid in where.uids]
    correct, valid = where.spread(rows.correct), where.spread(rows.valid)
    least = group if settings.min_history == "group" else settings.min_history
    active = np.array([len(p.correct) >= least for p in prompts], bool)[:, None]
    solvable = correct.any(axis=1, keepdims=True)
    gate = (correct if settings.gate == "correct" else valid & solvable) & where.present

    allowed, remembered = _pool(where, prompts, correct, settings)
    similar = _similarities(rows, where, prompts, remembered.shape[1])
    real = _compared(similar, allowed, active, settings)
    defined = active & allowed.any(axis=2)
    by_words = None
    if rows.codes:
        pool = allowed if settings.metric == "jaccard" else _siblings_only(allowed, remembered.shape[1])
        by_words = _compared(_overlaps(rows, where, prompts, similar.shape), pool, active, settings)
    used, used_defined = _by_metric(rows, where, prompts, correct, real, defined, by_words, settings)
    values = used.values
    if settings.quantile_map:
        values = quantile_map(values, real.values, gate & defined)
    if settings.control != "none":
        replaced = gate & used_defined
        values = controlled(
            settings.control,
            values,
            replaced,
            Identity(seed, step, where.uids),
            running_mean=state.scales.updated(real.values, gate & defined, settings.ema).mean,
            codes=[[rows.codes[row] for row in members] for members in where.members] if rows.codes else (),
            moments=None if recorded is None else recorded.moments(int(replaced.sum())),
        )
    if settings.length_residual:
        values = _without_length(values, where.spread(rows.lengths), gate & used_defined)
    return Measured(
        real=real,
        used=used._replace(values=values),
        gate=gate,
        defined=defined,
        used_defined=used_defined,
        nearest=_origins(real.nearest, where, prompts, remembered.shape[1], rows, step),
        lexical=None if by_words is None else by_words.values,
    )


def _similarities(rows: Rows, where: Layout, prompts: Sequence[PromptState], memory: int) -> np.ndarray:
    """``[K, W, M + W]`` cosines of the completions' vectors with those remembered and with each other."""
    vectors = where.spread(rows.vectors)
    history = np.zeros((len(prompts), memory, vectors.shape[2]), np.float32)
    for k, prompt in enumerate(prompts):
        if prompt.vectors is not None:
            history[k, : len(prompt.vectors)] = prompt.vectors
    return cosine_similarities(vectors, history)


def _overlaps(rows: Rows, where: Layout, prompts: Sequence[PromptState], shape: tuple[int, int, int]) -> np.ndarray:
    """``[K, W, M + W]`` Jaccard similarities of the completions' n-grams, likewise; 0 where none are remembered."""
    overlap = np.zeros(shape)
    for k, (prompt, members) in enumerate(zip(prompts, where.members, strict=True)):
        own, earlier = [np.unique(rows.codes[row]) for row in members], len(prompt.codes)
        found = jaccard_similarities(own, [*prompt.codes, *own])
        overlap[k, :, :earlier], overlap[k, :, -len(own) :] = found[:, :earlier], found[:, earlier:]
    return overlap


def _compared(similar: np.ndarray, allowed: np.ndarray, active: np.ndarray, settings: NoveltyConfig) -> Distances:
    """Distances as the settings aggregate them, 0 for problems whose history is too short."""
    pairs = settings.centring in ("loo_exact", "loo_all")
    found = distances(similar, allowed, settings.aggregate, settings.k, leave_one_out=pairs)
    return found._replace(values=np.where(active, found.values, 0.0))


def _by_metric(
    rows: Rows,
    where: Layout,
    prompts: Sequence[PromptState],
    correct: np.ndarray,
    real: Distances,
    defined: np.ndarray,
    by_words: Distances | None,
    settings: NoveltyConfig,
) -> tuple[Distances, np.ndarray]:
    """Distances of the metric that the bonus is made of, and ``[K, W]`` where they mean something."""
    if settings.metric == "jaccard":
        return by_words, defined
    if settings.metric == "ngram_count":
        counts = [
            [count_novelty(rows.codes[row], prompt.counts) if row >= 0 else 0.0 for row in members]
            for prompt, members in zip(prompts, where.members, strict=True)
        ]
        return Distances(np.array(counts), real.nearest), where.present
    if settings.metric == "policy_surprise":
        logprobs, lengths = where.spread(rows.logprobs), where.spread(rows.lengths)
        several = correct & (correct.sum(axis=1, keepdims=True) >= 2)
        return Distances(surprise(logprobs, lengths, correct, settings.surprise), real.nearest), several
    return real, defined


@dataclass(frozen=True)
class Paid:
    """The bonus of a step, ``[K, W]``, the one that the real distances would have given, and the scales after it."""

    bonus: Bonus
    shadow: Bonus
    scales: Scales
    used_scales: Scales


def pay(
    measured: Measured,
    state: ExplorationState,
    settings: NoveltyConfig,
    *,
    schedule: float,
    advantages: np.ndarray | None = None,
    mixed: np.ndarray | None = None,
    damping: np.ndarray | None = None,
    recorded: Recorded | None = None,
) -> Paid:
    """The bonus of every completion. That of a control adds up, in absolute value, to what the real one has.

    A yoked control has, on average over the completions that may get a bonus, what the other run paid instead.

    Args:
        measured: of the step.
        state: of exploration, before this step.
        settings: of novelty.
        schedule: factor on alpha.
        advantages: ``[K, W]`` of the task, where the cap looks at them.
        mixed: ``[K, W]`` bool, rows of groups with correct and other completions.
        damping: ``[K]`` factor on each problem's bonus (option A), or ``None``.
        recorded: of the run that a control is yoked to, in this step.
    """
    real_gate, gate = measured.gate & measured.defined, measured.gate & measured.used_defined
    scales = state.scales.updated(measured.real.values, real_gate, settings.ema)
    used_scales = state.used_scales.updated(measured.used.values, gate, settings.ema)
    past, used_past = (
        old if old.count else new for old, new in ((state.scales, scales), (state.used_scales, used_scales))
    )
    extra = {"schedule": schedule, "advantages": advantages, "mixed": mixed}
    real_strength = strength(settings, scales, schedule)
    shadow = bonus(measured.real, real_gate, settings, past=past, strength=real_strength, **extra)
    if settings.control == "constant":  # has no spread of its own to be scaled by
        made = bonus(measured.used, gate, settings, past=past, strength=real_strength, **extra)
    else:
        replaced = settings.control != "none" or settings.quantile_map
        total = float(np.abs(shadow.values).sum()) if replaced else None
        if recorded is not None:
            total = recorded.bonus * float(measured.gate.sum())
        own = strength(settings, used_scales, schedule)
        made = bonus(measured.used, gate, settings, past=used_past, strength=own, total=total, **extra)
    if damping is not None:
        made = made._replace(values=made.values * damping[:, None])
        shadow = shadow._replace(values=shadow.values * damping[:, None])
    return Paid(made, shadow, scales, used_scales)


def remember(
    rows: Rows, keys: Sequence[str | None], state: ExplorationState, settings: NoveltyConfig, *, group: int, step: int
) -> None:
    """Appends this step's completions to the memory of their problems.

    Args:
        rows: of the step.
        keys: ``[N]`` uid under which a row is remembered, ``None`` where it is not.
        state: of exploration; changed.
        settings: of novelty.
        group: completions a prompt.
        step: of the run.
    """
    capacity = group if settings.capacity == "group" else settings.capacity or max(16, 2 * group)
    where = layout(keys)
    for uid, members in zip(where.uids, where.members, strict=True):
        chosen = members[members >= 0]
        prompt = state.prompt(uid)
        if settings.metric == "ngram_count":
            for row in chosen[rows.correct[chosen]]:
                prompt.counts.update(rows.codes[row].tolist())
        kept = [np.unique(rows.codes[row]) for row in chosen] if settings.metric == "jaccard" else []
        origins = np.stack([np.full(len(chosen), step), rows.rollout_ids[chosen]], axis=1)
        prompt.remember(rows.vectors[chosen], kept, rows.correct[chosen], origins, capacity)


def _pool(
    where: Layout, prompts: Sequence[PromptState], correct: np.ndarray, settings: NoveltyConfig
) -> tuple[np.ndarray, np.ndarray]:
    """``[K, W, M + W]`` who is compared with whom, and ``[K, M]`` which remembered completions count."""
    most = max((len(p.correct) for p in prompts), default=0)
    remembered = np.zeros((len(prompts), most), bool)
    for k, prompt in enumerate(prompts):
        remembered[k, : len(prompt.correct)] = prompt.correct if settings.pool_filter == "correct" else True
    siblings = where.present & (correct if settings.pool_filter == "correct" else True)
    allowed = allowed_pool(remembered, siblings, pool=settings.pool) & where.present[:, :, None]
    return allowed, remembered


def _siblings_only(allowed: np.ndarray, history: int) -> np.ndarray:
    alone = allowed.copy()
    alone[:, :, :history] = False
    return alone


def _without_length(values: np.ndarray, lengths: np.ndarray, gate: np.ndarray) -> np.ndarray:
    """Residual of a least-squares line over length, around the mean distance."""
    x, y = lengths[gate].astype(np.float64), values[gate]
    if len(y) < 2 or np.ptp(x) == 0:
        return values
    slope = np.cov(x, y)[0, 1] / np.var(x, ddof=1)
    return np.where(gate, values - slope * (lengths - x.mean()), values)


def _origins(
    nearest: np.ndarray, where: Layout, prompts: Sequence[PromptState], history: int, rows: Rows, step: int
) -> np.ndarray:
    """``[K, W, 2]`` step and rollout id of each nearest neighbour."""
    origins = np.full((*nearest.shape, 2), -1, np.int64)
    for k, prompt in enumerate(prompts):
        for w in np.flatnonzero(nearest[k] >= 0):
            place = nearest[k, w]
            if place < history:
                origins[k, w] = prompt.origins[place]
            else:
                origins[k, w] = step, rows.rollout_ids[where.members[k, place - history]]
    return origins
