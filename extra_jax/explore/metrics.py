"""The numbers of exploration, ``exploration/*`` (method/extra.md c.4, c.5, d), and the lineage of each completion.

Names that the authors' release logs are kept: ``novelty_reward_mean``, ``hard_prompt_count``,
``hard_passrate_threshold``, ``guided_queue_size``, ``guided_injected``. A mean over nothing is left out.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from extra_jax.config import NoveltyConfig, PrefixConfig
from extra_jax.explore.diversity import diversity_metrics
from extra_jax.explore.injection import Slot
from extra_jax.explore.keyed import keyed_rng
from extra_jax.explore.novelty import Layout, Measured, Paid, Rows
from extra_jax.explore.proposals import Decisions, Group, Proposal
from extra_jax.explore.state import ExplorationState
from extra_jax.explore.yoke import Recorded

PREFIX = "exploration/"
_CLOSE = 0.95  # cosine from which two completions count as the same


def group_metrics(rows: Rows, slots: Sequence[Slot]) -> dict[str, float]:
    """Pass rates of plain and guided prompts apart, and whether each guided one met its own ground truth."""
    guided = np.array([slot.guided is not None for slot in slots])
    rate = _by_slot(rows, rows.correct, len(slots))
    found = {
        "gt_check": float(np.mean([slot.ground_truth_matches for slot in slots])) if guided.any() else 1.0,
        "regular_pass_rate": _mean(rate[~guided]),
        "regular_frac_all_wrong": _mean(rate[~guided] == 0.0),
        "regular_frac_all_correct": _mean(rate[~guided] == 1.0),
    }
    if guided.any():
        entries = [slot.guided for slot in slots if slot.guided is not None]
        found["gt_check"] = _mean([slot.ground_truth_matches for slot in slots if slot.guided is not None])
        found |= {
            "guided_pass_rate": _mean(rate[guided]),
            "guided_solved": _mean(rate[guided] > 0.0),
            "guided_frac_mixed": _mean((rate[guided] > 0.0) & (rate[guided] < 1.0)),
            "guided_frac_all_wrong": _mean(rate[guided] == 0.0),
            "guided_frac_all_correct": _mean(rate[guided] == 1.0),
            "guided_prefix_tokens": _mean([len(e.prefix.tokens) for e in entries]),
            "guided_prefix_fraction": _mean([e.prefix.fraction for e in entries]),
            "guided_depth_max": max(e.prefix.depth for e in entries),
            "guided_source_correct": _mean([e.prefix.correct for e in entries]),
            "guided_leak_share": _mean([e.prefix.leak for e in entries]),
        }
        for name, wanted in (("leak", True), ("no_leak", False)):
            chosen = [r for r, s in zip(rate, slots, strict=True) if s.guided and s.guided.prefix.leak == wanted]
            found[f"guided_pass_rate_{name}"] = _mean(chosen)
        for name, wanted in (("source_correct", True), ("source_wrong", False)):
            chosen = rate[[s.guided is not None and s.guided.prefix.correct == wanted for s in slots]]
            found[f"guided_pass_rate_{name}"] = _mean(chosen)
            found[f"guided_frac_mixed_{name}"] = _mean((chosen > 0.0) & (chosen < 1.0))
    if rows.codes:
        found |= diversity_metrics(rows.codes, rows.correct.reshape(len(slots), -1), ~guided)
    return named(found)


def novelty_metrics(
    rows: Rows, where: Layout, measured: Measured, paid: Paid, task: np.ndarray, settings: NoveltyConfig
) -> dict[str, float]:
    """Distances, bonus, and how the bonus of the arm compares with that of the real distances.

    Args:
        rows: of the step.
        where: layout of the arrays.
        measured: distances.
        paid: bonus.
        task: ``[K, W]`` advantages of the task.
        settings: of novelty.
    """
    d, gate, present = measured.real.values, measured.gate, where.present
    right = where.spread(rows.correct) & measured.defined
    wrong = present & ~where.spread(rows.correct) & measured.defined
    alone = np.where(present, where.spread(rows.correct), True).all(axis=1, keepdims=True)
    b, shadow = paid.bonus.values, paid.shadow.values
    mixed = gate & ~alone
    total = np.abs(b[gate]).sum()
    found = {
        "novelty_mean": _mean(d[right]),
        "novelty_std": _std(d[right]),
        "novelty_max": float(d[right].max(initial=0.0)),
        "novelty_mean_wrong": _mean(d[wrong]),
        "novelty_mean_all_correct": _mean(d[right & alone]),
        "novelty_within_std": paid.scales.within_std,
        "novelty_between_std": float(np.sqrt(paid.scales.between_variance)),
        "novelty_near_share": _mean(d[right] < 1.0 - _CLOSE),
        "novelty_active_share": _mean(measured.defined[gate]),
        "novelty_pair_share": _mean((gate.sum(axis=1, keepdims=True) >= 2)[np.where(gate)[0], 0]),
        "novelty_length_spearman": spearman(d[right], where.spread(rows.lengths)[right]),
        "novelty_logprob_spearman": spearman(d[right], where.spread(rows.logprobs / rows.lengths)[right]),
        "novelty_alpha_eff": paid.bonus.strength,
        "novelty_reward_mean": _mean(b[present]) if settings.enabled else 0.0,
        "bonus_abs_mean": _mean(np.abs(b[gate])),
        "bonus_to_advantage": _mean(np.abs(b[mixed])) / max(_mean(np.abs(task[mixed])), 1e-12),
        "bonus_share_all_correct": float(np.abs(b[gate & alone]).sum() / total) if total else float("nan"),
        "bonus_capped_share": _mean(paid.bonus.capped[gate]),
        "bonus_negative_share": _mean(b[gate] < 0.0),
        "match_sum": _ratio(total, np.abs(shadow[gate]).sum()),
        "match_std": _ratio(_std(b[gate]), _std(shadow[gate])),
        "match_max": _ratio(np.abs(b[gate]).max(initial=0.0), np.abs(shadow[gate]).max(initial=0.0)),
        "match_nonzero": _ratio((b[gate] != 0.0).sum(), (shadow[gate] != 0.0).sum()),
    }
    for q in (5, 50, 95):
        found[f"novelty_q{q:02d}"] = float(np.quantile(d[right], q / 100)) if right.any() else float("nan")
    if measured.lexical is not None:
        found["novelty_lexical_mean"] = _mean(measured.lexical[right])
        found["novelty_lexical_spearman"] = spearman(d[right], measured.lexical[right])
    return named(found)


def yoke_metrics(recorded: Recorded, measured: Measured, paid: Paid) -> dict[str, float]:
    """How a yoked control compares with the step it is yoked to: ratios, 1 where they are equal.

    ``match_yoked_bonus`` stays below 1 where the caps leave no room for as large a bonus. Nothing is logged of a step
    in which the other run had nothing to pay for.
    """
    used = measured.used.values[measured.gate & measured.used_defined]
    return named(
        {
            "match_yoked_mean": _ratio(_mean(used), recorded.mean),
            "match_yoked_std": _ratio(_std(used), recorded.std),
            "match_yoked_bonus": _ratio(_mean(np.abs(paid.bonus.values[measured.gate])), recorded.bonus),
        }
    )


def visit_metrics(slots: Sequence[Slot], groups: Sequence[Group], state: ExplorationState) -> dict[str, float]:
    """What became of prompts since their last visit; before this step's visits are written down.

    ``transfer_*`` compares, among prompts that were queued, those that were drawn with those that were not: with a
    random draw, a randomised experiment on what regeneration does for the plain prompt (c.5).
    """
    rates: dict[str, list[float]] = {"drawn": [], "eligible": []}
    again: list[bool] = []
    for slot, group in zip(slots, groups, strict=True):
        prompt = state.prompts.get(slot.problem.uid)
        if slot.guided is not None or prompt is None:
            continue
        if prompt.waiting:
            rates[prompt.waiting].append(group.correct / group.size)
        if prompt.visits and prompt.hard:
            again.append(group.correct == 0)
    return named(
        {
            "transfer_drawn": _mean(rates["drawn"]),
            "transfer_drawn_count": len(rates["drawn"]),
            "transfer_not_drawn": _mean(rates["eligible"]),
            "transfer_not_drawn_count": len(rates["eligible"]),
            "hard_again_share": _mean(again),
        }
    )


def hard_metrics(
    slots: Sequence[Slot], groups: Sequence[Group], hard: Sequence[int], config: PrefixConfig
) -> dict[str, float]:
    """How often the trigger fires, and how often a Beta distribution of pass rates says that it should."""
    plain = [group for slot, group in zip(slots, groups, strict=True) if slot.guided is None]
    hard_plain = [groups[i] for i in hard if slots[i].guided is None]
    found = {
        "hard_prompt_count": len(hard),
        "hard_prompt_share": len(hard_plain) / max(len(plain), 1),
        "hard_none_correct": sum(group.correct == 0 for group in hard_plain),
        "hard_one_correct": sum(group.correct == 1 for group in hard_plain),
        "hard_only_truncated": sum(group.correct == 0 for group in plain)
        - sum(group.correct == 0 for group in hard_plain),
    }
    if config.hard_rule == "count":
        size = plain[0].size if plain else 1
        found["hard_passrate_threshold"] = config.hard_max_correct / size
        found["hard_share_predicted"] = _beta_share(plain, config.hard_max_correct)
    return named(found)


def prefix_metrics(
    proposals: Sequence[Proposal], done: Decisions, rows: Rows, slots: Sequence[Slot], seed: int, step: int
) -> dict[str, float]:
    """Candidates, scores and choices of a step."""
    chosen = [pool[choice.index] for pool, choice in zip(done.pools, done.real, strict=True)]
    drawn = [pool[keyed_rng("gap", seed, step, i).integers(len(pool))] for i, pool in enumerate(done.pools)]
    used = [prefix for prefix in done.used if prefix is not None]
    found = {
        "no_cut_share": _mean([not proposal.prefixes for proposal in proposals]),
        "candidates": _mean([len(proposal.prefixes) for proposal in proposals]),
        "memory_prefixes": _mean([len(pool) for pool in done.pools]),
        "prefix_score": _mean([prefix.score for prefix in chosen]),
        "prefix_score_pool": _mean([prefix.score for pool in done.pools for prefix in pool]),
        "prefix_score_random": _mean([prefix.score for prefix in drawn]),
        "prefix_score_used": _mean([prefix.score for prefix in used]),
        "prefix_fraction": _mean([prefix.fraction for prefix in chosen]),
        "prefix_fraction_used": _mean([prefix.fraction for prefix in used]),
        "prefix_tokens": _mean([len(prefix.tokens) for prefix in chosen]),
        "prefix_raw_agreement": _mean([c.index == raw for c, raw in zip(done.real, done.raw, strict=True)]),
        "prefix_used_agreement": _mean([a is b for a, b in zip(chosen, done.used, strict=True)]),
        "prefix_tie_share": _mean([choice.tied > 1 for choice in done.real]),
        "prefix_source_correct": _mean([prefix.correct for prefix in chosen]),
        "prefix_leak_share": _mean([prefix.leak for prefix in chosen]),
        "queue_added": len(done.queued),
        "queue_replaced": done.replaced,
        "queue_evicted": done.evicted,
    }
    return named(found)


def state_metrics(
    state: ExplorationState, slots: Sequence[Slot], guided_advantages: np.ndarray, expired: int, step: int
) -> dict[str, float]:
    """The queue and the memory after a step in which ``expired`` prompts had waited too long."""
    ages = [step - entry.born for entry in state.queue]
    used = [step - slot.guided.born for slot in slots if slot.guided is not None]
    injected = np.sort([prompt.injected for prompt in state.prompts.values() if prompt.injected])
    found = {
        "guided_queue_size": len(state.queue),
        "guided_injected": len(used),
        "queue_expired": expired,
        "guided_age": _mean(used),
        "guided_advantage_abs": _mean(np.abs(guided_advantages)),
        "queue_age_median": float(np.median(ages)) if ages else float("nan"),
        "queue_age_p90": float(np.quantile(ages, 0.9)) if ages else float("nan"),
        "pending": len(state.pending),
        "memory_mb": state.nbytes() / 1e6,
        "injected_gini": _gini(injected),
    }
    return named(found)


def lineage(
    rows: Rows, slots: Sequence[Slot], where: Layout, measured: Measured, paid: Paid, task: np.ndarray, mine: slice
) -> dict[str, list[Any]]:
    """Where each completion of this process comes from and what novelty made of it; ``None`` where nothing is.

    ``parent`` and ``nearest`` are ``step:rollout_id`` of another record (whose steps count from 1); ``novelty`` is the
    real distance, ``novelty_used`` the arm's.
    """
    total = len(rows.slot)
    seen = where.collect(where.present, total)[mine]
    nearest = where.collect(measured.nearest, total)[mine]
    entries = [slots[slot].guided for slot in rows.slot[mine]]

    def guided(value: Any) -> list[Any]:
        return [None if entry is None else value(entry) for entry in entries]

    def numbers(values: np.ndarray) -> list[float | None]:
        return [
            round(float(x), 6) if ok else None for x, ok in zip(where.collect(values, total)[mine], seen, strict=True)
        ]

    return {
        "parent": guided(lambda e: f"{e.prefix.step + 1}:{e.prefix.rollout_id}"),
        "prefix_ids": guided(lambda e: e.prefix.tokens.tolist()),
        "prefix_fraction": guided(lambda e: round(e.prefix.fraction, 4)),
        "prefix_score": guided(lambda e: round(e.prefix.score, 6)),
        "prefix_smoothed": guided(lambda e: round(e.smoothed, 6)),
        "prefix_depth": guided(lambda e: e.prefix.depth),
        "prefix_leak": guided(lambda e: e.prefix.leak),
        "novelty": numbers(measured.real.values),
        "novelty_used": numbers(measured.used.values),
        "nearest": [
            f"{a + 1}:{b}" if a >= 0 and ok else None for (a, b), ok in zip(nearest.tolist(), seen, strict=True)
        ],
        "bonus": numbers(paid.bonus.values),
        "bonus_real": numbers(paid.shadow.values),
        "advantage_task": [round(float(x), 6) for x in task[mine]],
    }


def _by_slot(rows: Rows, values: np.ndarray, slots: int) -> np.ndarray:
    return np.bincount(rows.slot, weights=values, minlength=slots) / np.bincount(rows.slot, minlength=slots)


def _beta_share(groups: Sequence[Group], most: int) -> float:
    """Probability of at most ``most`` correct under the Beta-binomial that fits the groups' mean and variance."""
    if not groups:
        return float("nan")
    n = groups[0].size
    k = np.array([group.correct for group in groups], np.float64)
    mean, variance = k.mean() / n, k.var()
    binomial = n * mean * (1.0 - mean)
    if not 0.0 < mean < 1.0 or variance <= binomial:
        share = np.zeros(n + 1)  # no spread beyond the binomial's: one pass rate
        for j in range(n + 1):
            share[j] = _choose(n, j) * mean**j * (1.0 - mean) ** (n - j)
        return float(share[: most + 1].sum())
    rho = min((variance / binomial - 1.0) / (n - 1), 0.999)
    a, b = mean * (1.0 / rho - 1.0), (1.0 - mean) * (1.0 / rho - 1.0)
    share = 1.0
    for i in range(n):  # no success: prod (b + i) / (a + b + i)
        share *= (b + i) / (a + b + i)
    total = share
    for j in range(1, most + 1):
        share *= (n - j + 1) / j * (a + j - 1) / (b + n - j)
        total += share
    return float(total)


def _choose(n: int, k: int) -> float:
    return float(np.prod([(n - i) / (i + 1) for i in range(k)]))


def _gini(counts: np.ndarray) -> float:
    """Inequality of sorted counts: 0 where all are equal."""
    n = len(counts)
    if not n:
        return float("nan")
    return float((2 * np.arange(1, n + 1) - n - 1) @ counts / (n * counts.sum()))


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Rank correlation, ties at their mean rank. Six decimals count: hidden states of equal texts, packed in different
    places, differ by rounding, and so do the distances that are made of them."""
    x, y = np.round(x, 6), np.round(y, 6)
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(ranks(x), ranks(y))[0, 1])


def ranks(x: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share their mean rank."""
    _, index, size = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(size) - (size - 1) / 2.0)[index]


def _mean(values: Any) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def _std(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")


def _ratio(a: float, b: float) -> float:
    return float(a / b) if b else float("nan")


def named(found: dict[str, float]) -> dict[str, float]:
    return {PREFIX + name: float(value) for name, value in found.items() if np.isfinite(value)}
