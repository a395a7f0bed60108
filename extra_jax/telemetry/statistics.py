"""Evaluation statistics: unbiased pass@k, averages, their intervals, and tests of paired differences.

``correct`` is always a ``[P, N]`` bool matrix: ``N`` independent samples of each of ``P`` problems, 1 where the grader
said correct. Intervals are percentile bootstrap intervals over *problems* (the samples of a problem stay together):
they answer "what if the benchmark had drawn other problems of this kind", which is the larger uncertainty.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from extra_jax.errors import ExtraError

RESAMPLES = 2000
DRAWS = 10_000
CONFIDENCE = 0.95
_TAILS = ((1 - CONFIDENCE) / 2, 1 - (1 - CONFIDENCE) / 2)
_CELLS_AT_ONCE = 4_000_000
_EXACT_FLIPS = 14  # values up to which all sign flips are enumerated


def pass_at_k(n: np.ndarray | int, c: np.ndarray | int, k: np.ndarray | int) -> np.ndarray:
    """Unbiased probability that at least one of ``k`` samples is correct, from ``n`` samples of which ``c`` are.

    ``1 - C(n - c, k) / C(n, k)`` (Chen et al. 2021, arXiv:2107.03374, eq. 1), computed as
    ``1 - prod_{j<k} (n - c - j) / (n - j)``: no factorial, so no overflow for any ``n``.

    Args:
        n: Samples per problem; broadcasts with the others, as do ``c`` and ``k``.
        c: Correct samples, ``0 <= c <= n``.
        k: Draws without replacement, ``1 <= k <= n``.

    Returns:
        float64 array of the broadcast shape, in [0, 1].

    Raises:
        ValueError: a count is outside its range.
    """
    n, c, k = np.broadcast_arrays(np.asarray(n, np.int64), np.asarray(c, np.int64), np.asarray(k, np.int64))
    if np.any(k < 1) or np.any(k > n):
        raise ValueError(f"pass@k needs 1 <= k <= n, got k={k.tolist()} with n={n.tolist()}")
    if np.any(c < 0) or np.any(c > n):
        raise ValueError("pass@k needs 0 <= c <= n: more correct samples than samples, or fewer than none")
    none_correct = np.ones(n.shape)
    for j in range(int(k.max(initial=0))):
        factor = np.maximum(n - c - j, 0) / np.maximum(n - j, 1)
        none_correct = np.where(j < k, none_correct * factor, none_correct)
    return 1.0 - none_correct


def powers_of_two(limit: int) -> list[int]:
    """1, 2, 4, ... up to ``limit``."""
    return list(itertools.takewhile(lambda k: k <= limit, (2**i for i in itertools.count())))


def bootstrap_interval(values: np.ndarray, seed: int = 0, resamples: int = RESAMPLES) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap interval of the mean over problems.

    Args:
        values: ``[P]`` or ``[P, M]``: one row a problem, one column a statistic. All columns see the same resamples.
        seed: Of the resampling; equal inputs give equal intervals.
        resamples: Number of resamples of ``P`` problems with replacement.

    Returns:
        ``(low, high)``, each ``[]`` or ``[M]``. Where all problems agree (all 0, all 1, or one problem) the interval
        has no width: the bootstrap cannot see what the sample does not show.
    """
    values = np.asarray(values, np.float64)
    table = values.reshape(len(values), -1)
    generator = np.random.default_rng(seed)
    chunk = max(1, _CELLS_AT_ONCE // max(1, table.size))
    means = np.concatenate(
        [
            table[generator.integers(len(table), size=(min(chunk, resamples - start), len(table)))].mean(axis=1)
            for start in range(0, resamples, chunk)
        ]
    )
    low, high = np.quantile(means, _TAILS, axis=0)
    shape = values.shape[1:]
    return low.reshape(shape), high.reshape(shape)


def evaluation_summary(correct: np.ndarray, majority: np.ndarray | None = None, *, seed: int = 0) -> dict[str, Any]:
    """Average accuracy, pass@k and majority vote of an evaluation, with 95 % intervals.

    Args:
        correct: ``[P, N]`` bool.
        majority: ``[P]`` scores of majority voting in [0, 1], where samples can vote.
        seed: Of the bootstrap (2,000 resamples over problems).

    Returns:
        ``{"num_problems": P, "num_generations": N, "avg@N": {"mean", "low", "high"}, "pass@1": {...}, "pass@2": ...}``
        for every power of two up to ``N``, and ``maj@N`` with ``majority``. ``pass@1`` equals ``avg@N`` by definition.

    Raises:
        ExtraError: the matrix is empty or not two-dimensional.
    """
    correct = _matrix(correct)
    problems, samples = correct.shape
    ks = powers_of_two(samples)
    counts = correct.sum(axis=1)
    scores = {f"avg@{samples}": counts / samples} | {f"pass@{k}": pass_at_k(samples, counts, k) for k in ks}
    if majority is not None:
        scores[f"maj@{samples}"] = np.asarray(majority, np.float64)
    columns = np.stack(list(scores.values()), axis=1)  # [P, scores]
    low, high = bootstrap_interval(columns, seed)
    means = columns.mean(axis=0)
    summary: dict[str, Any] = {"num_problems": problems, "num_generations": samples}
    for index, name in enumerate(scores):
        summary[name] = {"mean": float(means[index]), "low": float(low[index]), "high": float(high[index])}
    return summary


def paired_difference(before: np.ndarray, after: np.ndarray, k: int = 1, seed: int = 0) -> dict[str, float]:
    """Change of pass@k on the same problems, with a 95 % interval by paired bootstrap.

    Much sharper than comparing two separate intervals, because the difficulty of a problem cancels.

    Args:
        before: ``[P, N]`` bool.
        after: ``[P, M]`` bool, row ``p`` the same problem as in ``before``.
        k: Of pass@k; at most ``min(N, M)``.

    Returns:
        ``{"mean", "low", "high"}`` of ``after - before``.

    Raises:
        ExtraError: the matrices are empty or have different problems.
    """
    before, after = _matrix(before), _matrix(after)
    if len(before) != len(after):
        raise ExtraError(
            f"cannot pair {len(before)} problems before with {len(after)} after; evaluate both on the same problems"
        )
    first, second = (pass_at_k(correct.shape[1], correct.sum(1), k) for correct in (before, after))
    return paired_change(first, second, seed)


def paired_change(before: np.ndarray, after: np.ndarray, seed: int = 0) -> dict[str, float]:
    """``{"mean", "low", "high"}`` of ``after - before``, both ``[P]`` scores of the same problems."""
    change = after - before
    low, high = bootstrap_interval(change, seed)
    return {"mean": float(change.mean()), "low": float(low), "high": float(high)}


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of independent trials, of which there is at least one."""
    z2 = 1.959963984540054**2
    share, room = successes / trials, trials + z2
    half = math.sqrt(z2 * (share * (1 - share) * trials + z2 / 4)) / room
    middle = (successes + z2 / 2) / room
    return middle - half, middle + half


def quantile_interval(draws: np.ndarray) -> tuple[float, float]:
    """The 95 % percentile interval of bootstrap draws ``[draws]``; those that are NaN, as undefined, do not count."""
    known = draws[~np.isnan(draws)]
    low, high = np.quantile(known, _TAILS) if known.size else (np.nan, np.nan)
    return float(low), float(high)


def resample_counts(generator: np.random.Generator, items: int, draws: int) -> np.ndarray:
    """``[draws, items]``: how often each of ``items`` is drawn when as many are drawn with replacement."""
    return generator.multinomial(items, np.full(items, 1 / items), size=draws)


def spearman(a: np.ndarray, b: np.ndarray, decimals: int | None = None) -> float:
    """Spearman's rank correlation of ``[n]`` pairs; equal values share their mean rank.

    Args:
        decimals: Values that agree in so many decimals are equal.

    Returns:
        NaN for fewer than 3 pairs, or where one of the two is constant.
    """
    pair = [np.asarray(x, np.float64) if decimals is None else np.round(x, decimals) for x in (a, b)]
    if len(pair[0]) < 3 or any(np.ptp(x) == 0 for x in pair):
        return float("nan")
    return float(np.corrcoef(ranks(pair[0]), ranks(pair[1]))[0, 1])


def ranks(values: np.ndarray) -> np.ndarray:
    """``[n]`` ranks from 1; equal values share their mean rank."""
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[index]


def hierarchical_draws(differences: Sequence[np.ndarray], draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Bootstrap draws of the mean difference of each benchmark.

    Each draw takes ``S`` seeds with replacement, the same for every benchmark, then in each benchmark ``P`` problems
    with replacement, the same for every seed: arms, seeds and benchmarks stay paired.

    Args:
        differences: Per benchmark ``[S, P]``.

    Returns:
        ``[draws, benchmarks]``.
    """
    generator = np.random.default_rng(seed)
    seeds = len(differences[0])
    seed_weights = resample_counts(generator, seeds, draws) / seeds
    columns = []
    for difference in differences:
        problems = difference.shape[1]
        step = max(1, _CELLS_AT_ONCE // problems)
        means = []
        for start in range(0, draws, step):
            weights = seed_weights[start : start + step]
            drawn = resample_counts(generator, problems, len(weights)) / problems
            means.append(np.einsum("rs,sp,rp->r", weights, difference, drawn, optimize=True))
        columns.append(np.concatenate(means))
    return np.stack(columns, axis=1)


def sign_flip_p(values: np.ndarray, draws: int = DRAWS, seed: int = 0) -> float:
    """Two-sided p-value of the sign-flip test that the values are symmetric about zero.

    The statistic is the absolute sum. All ``2^n`` flips are enumerated up to 14 values; beyond, ``draws`` random ones
    and the observed one are counted. With few values the smallest possible result is ``2 / 2^n``: 3 seeds can never
    give less than 0.25, 6 are needed for less than 0.05.

    Args:
        values: ``[n]`` paired differences.
    """
    values = np.asarray(values, np.float64)
    observed = abs(values.sum())
    reached = observed - 1e-12 * max(1.0, np.abs(values).sum())
    if len(values) <= _EXACT_FLIPS:
        signs = np.array(list(itertools.product((1, -1), repeat=len(values))))
        return float(np.mean(np.abs(signs @ values) >= reached))
    generator = np.random.default_rng(seed)
    hits = 0
    step = max(1, _CELLS_AT_ONCE // len(values))
    for start in range(0, draws, step):
        signs = generator.choice((-1.0, 1.0), size=(min(step, draws - start), len(values)))
        hits += int(np.sum(np.abs(signs @ values) >= reached))
    return (hits + 1) / (draws + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values (Holm 1979), in the order of the input."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(p_values))
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted.tolist()


def evaluation_metrics(summary: Mapping[str, Any], prefix: str = "eval_") -> dict[str, float]:
    """The summary as flat metrics: ``eval_pass@1``, ``eval_pass@1_low``, ``eval_pass@1_high``, ..."""
    flat = {}
    for name, value in summary.items():
        if isinstance(value, Mapping):
            flat[f"{prefix}{name}"] = float(value["mean"])
            flat[f"{prefix}{name}_low"] = float(value["low"])
            flat[f"{prefix}{name}_high"] = float(value["high"])
    return flat


def _matrix(correct: np.ndarray) -> np.ndarray:
    correct = np.asarray(correct)
    if correct.ndim != 2 or 0 in correct.shape:
        raise ExtraError(
            f"an evaluation needs a matrix of problems x samples with at least one of each, got shape {correct.shape}"
        )
    return correct.astype(bool)
