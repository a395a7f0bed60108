"""How well judge scores agree with verified verdicts: rates, rank statistics, and their bootstrap intervals.

Every number is a function of weights on problems: with equal weights it is the estimate, with the multiplicities of a
resample one draw of the bootstrap. The rollouts of a problem stay together, as they are no independent evidence.

Source: ``docs/methods/exprl.md`` 2.4.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from extra_jax.judge.score import HIGHEST, LOWEST
from extra_jax.telemetry.statistics import quantile_interval, resample_counts, spearman

THRESHOLD = 4.0
"""Scores from here on count as "the judge says correct"."""

LEVELS = tuple(range(LOWEST, HIGHEST + 1))
RESAMPLES = 1000
_DIGITS = 2  # scores that are means or expectations are compared at this precision


@dataclass(frozen=True)
class Judged:
    """Rollouts with a judge's opinion and the truth.

    Attributes:
        problem: ``[R]`` int, which problem a rollout is of.
        correct: ``[R]`` bool, verified.
        score: ``[R]`` float, 1..5; NaN where the judge gave none.
        length: ``[R]`` float, tokens of the trace.
    """

    problem: np.ndarray
    correct: np.ndarray
    score: np.ndarray
    length: np.ndarray

    def scored(self) -> "Judged":
        """Those with a score."""
        keep = ~np.isnan(self.score)
        return Judged(self.problem[keep], self.correct[keep], self.score[keep], self.length[keep])


def change(before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """How two scores ``[R]`` of the same rollouts differ, where both are there (NaN: not).

    Returns:
        ``count``, ``equal`` (share), ``mean`` of ``after - before`` and ``mean_abs`` of it, in points of 1..5.
    """
    difference = np.round(after - before, _DIGITS)
    difference = difference[~np.isnan(difference)]
    if not difference.size:
        return {"count": 0, "equal": np.nan, "mean": np.nan, "mean_abs": np.nan}
    return {
        "count": int(difference.size),
        "equal": float((difference == 0).mean()),
        "mean": float(difference.mean()),
        "mean_abs": float(np.abs(difference).mean()),
    }


def calibration(judged: Judged, seed: int = 0, resamples: int = RESAMPLES) -> dict[str, dict[str, float]]:
    """Metrics of one judge, each with a 95 % bootstrap interval over problems.

    Returns:
        ``{metric: {"value", "low", "high"}}``; NaN where a metric is undefined (a class is absent). ``parsed`` is the
        share of rollouts with a score; the others leave out rollouts without one.
    """
    problems = int(judged.problem.max(initial=0)) + 1
    draws = resample_counts(np.random.default_rng(seed), problems, resamples)
    table = _statistics(judged, np.concatenate([np.ones((1, problems)), draws]))
    summary = {}
    for name, values in table.items():
        low, high = quantile_interval(values[1:])
        summary[name] = {"value": float(values[0]), "low": low, "high": high}
    return summary


def auroc(score: np.ndarray, correct: np.ndarray) -> float:
    """Probability that a correct rollout scores higher than a wrong one, ties half; NaN without both classes."""
    levels, index = np.unique(np.round(score, _DIGITS), return_inverse=True)
    pos = np.bincount(index[correct], minlength=len(levels))[None].astype(np.float64)
    neg = np.bincount(index[~correct], minlength=len(levels))[None].astype(np.float64)
    return float(_auroc_of_counts(pos, neg)[0])


def within_prompt_auroc(problem: np.ndarray, score: np.ndarray, correct: np.ndarray) -> float:
    """Mean of the AUROC of each problem that has correct and wrong rollouts: what a group-relative advantage uses."""
    values = [auroc(score[problem == p], correct[problem == p]) for p in np.unique(problem)]
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def reliability(judged: Judged) -> list[dict[str, float]]:
    """For each level: how many rollouts have it (rounded), and which share of them is correct."""
    scored = judged.scored()
    level = np.rint(scored.score)
    return [
        {
            "score": k,
            "count": int((level == k).sum()),
            "correct": float(scored.correct[level == k].mean()) if (level == k).any() else float("nan"),
        }
        for k in LEVELS
    ]


def score_shares(judged: Judged) -> dict[str, list[float]]:
    """For correct and for wrong rollouts: the share of each level."""
    scored = judged.scored()
    level = np.rint(scored.score)
    shares = {}
    for name, chosen in (("correct", scored.correct), ("wrong", ~scored.correct)):
        shares[name] = [float((level[chosen] == k).mean()) if chosen.any() else float("nan") for k in LEVELS]
    return shares


def length_bias(judged: Judged) -> dict[str, float]:
    """Rank correlation of score and length, over all rollouts and within each class.

    Within a class it should be near 0: there, length says nothing about correctness.
    """
    scored = judged.scored()
    chosen = {"all": np.ones_like(scored.correct), "correct": scored.correct, "wrong": ~scored.correct}
    return {name: spearman(scored.score[rows], scored.length[rows]) for name, rows in chosen.items()}


def _statistics(judged: Judged, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Each metric under each row of weights ``[W, P]``."""
    problems = weights.shape[1]
    scored = judged.scored()
    levels, index = np.unique(np.round(scored.score, _DIGITS), return_inverse=True)
    counts = np.zeros((2, problems, max(len(levels), 1)))  # wrong and correct rollouts of each problem at each level
    np.add.at(counts, (scored.correct.astype(int), scored.problem, index), 1)
    neg, pos = weights @ counts[0], weights @ counts[1]
    positive = levels >= THRESHOLD if len(levels) else np.zeros(1, bool)
    asked = weights @ np.bincount(judged.problem, minlength=problems)
    false_neg, false_pos = pos[:, ~positive].sum(axis=1), neg[:, positive].sum(axis=1)
    all_pos, all_neg = pos.sum(axis=1), neg.sum(axis=1)
    fnr, fpr = _ratio(false_neg, all_pos), _ratio(false_pos, all_neg)
    own = _auroc_of_counts(counts[1], counts[0])  # of each problem
    mixed = ~np.isnan(own)
    several = counts.sum(axis=(0, 2)) >= 2
    spread = (counts.sum(axis=0) > 0).sum(axis=1) > 1
    return {
        "misplacement": (fnr + fpr) / 2,
        "false_negative_rate": fnr,
        "false_positive_rate": fpr,
        "pooled_misplacement": _ratio(false_neg + false_pos, all_pos + all_neg),
        "auroc": _auroc_of_counts(pos, neg),
        "within_prompt_auroc": _ratio(weights[:, mixed] @ own[mixed], weights[:, mixed].sum(axis=1)),
        "prompts_with_signal": _ratio(weights[:, several & spread].sum(axis=1), weights[:, several].sum(axis=1)),
        "parsed": _ratio(all_pos + all_neg, asked),
    }


def _auroc_of_counts(pos: np.ndarray, neg: np.ndarray) -> np.ndarray:
    """``[W]`` from how many correct and wrong rollouts there are at each level, ascending, ``[W, U]``."""
    below = np.cumsum(neg, axis=1) - neg
    return _ratio((pos * (below + neg / 2)).sum(axis=1), pos.sum(axis=1) * neg.sum(axis=1))


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.full(np.shape(a), np.nan), where=np.asarray(b) > 0)


def first_seen_index(names: Sequence[str]) -> np.ndarray:
    """``[R]`` int, 0, 1, ... in the order in which names first occur."""
    place: dict[str, int] = {}
    return np.array([place.setdefault(name, len(place)) for name in names], np.int64)


def finite(tree: object) -> object:
    """The same tree with ``None`` for every number that is not finite, as JSON has no name for them."""
    if isinstance(tree, Mapping):
        return {key: finite(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [finite(value) for value in tree]
    return None if isinstance(tree, float) and not np.isfinite(tree) else tree
