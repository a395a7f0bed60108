"""Judge scores -> advantages, on the host, in float64.

Arrays are padded: ``[B, S]`` holds the scores of ``B`` rollouts with at most ``S`` segments. Whether a rollout says
something is a mask of its own (``valid``), never a special number: one unparsed segment makes its rollout invalid.

Three readings of the method can be chosen by ``faithful``: ``paper`` (its formulas), ``code`` (what the released code
does, its faults included, to reproduce its runs) and ``recommended``. Source: ``docs/methods/exprl.md`` 1, 3 and 4.
"""

from typing import Literal

import numpy as np

from extra_jax.learn.estimators import grpo

Estimator = Literal["delta", "end", "group", "batch", "raw"]
Faithful = Literal["paper", "code", "recommended"]
SingleSegment = Literal["zero", "grpo", "raw"]

_EPS = 1e-6
_UNPARSED = -100.0  # the released code's mark on the tokens of a segment without a score
SINGLE_SEGMENT: dict[Faithful, SingleSegment] = {"paper": "zero", "code": "raw", "recommended": "grpo"}
"""What ``delta`` gives a rollout of one segment, by default. The formula says 0 and the released code +s, which both
pay a policy for not writing delimiters any more; its group-relative advantage does not."""


def outcome_advantages(
    rewards: np.ndarray,
    group: np.ndarray,
    valid: np.ndarray,
    *,
    scale: Literal["group", "none"] = "group",
    faithful: Faithful = "recommended",
) -> np.ndarray:
    """Group-relative advantages ``(r - mean) / (std + 1e-6)``, std with ddof 1: ``grpo`` for groups of any sizes.

    Args:
        rewards: ``[B]``.
        group: ``[B]`` int, which rollouts are compared with each other.
        valid: ``[B]`` bool. The others stay out of mean and std and get 0; under ``code`` they enter as reward 0.
        scale: ``none`` does not divide (stage 2).
        faithful: ``paper`` and ``recommended`` are the same here.

    Returns:
        ``[B]``; 0 for a group with fewer than two valid rewards.
    """
    valid = np.asarray(valid, bool)
    counted = np.ones_like(valid) if faithful == "code" else valid
    if not len(valid):
        return np.zeros(0)
    _, row, size = np.unique(group, return_inverse=True, return_counts=True)
    order = np.argsort(row, kind="stable")
    place = np.empty_like(row)
    place[order] = np.arange(len(row)) - np.repeat(np.cumsum(size) - size, size)  # of each rollout in its group
    table, members = np.zeros((len(size), size.max())), np.zeros((len(size), size.max()), bool)
    table[row, place], members[row, place] = np.where(valid, rewards, 0.0), counted
    return np.where(valid, grpo(table, members, scale, _EPS)[row, place], 0.0)


def process_advantages(
    scores: np.ndarray,
    counts: np.ndarray,
    group: np.ndarray,
    valid: np.ndarray,
    estimator: Estimator = "delta",
    faithful: Faithful = "recommended",
    *,
    single_segment: SingleSegment | None = None,
    outcome_mix: float = 0.0,
    tokens: np.ndarray | None = None,
    max_length: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """One advantage for each segment, to be given to all its tokens.

    - ``delta``: ``s_t - s_{t-1}``. The first segment is compared with ``s_T`` (paper, code) or with the mean of the
      other valid rollouts' first scores in the group (recommended; its own with none), so that a good opening is not
      punished for the progress that follows;
    - ``end``: ``s_t - s_T``; the last segment ``s_T`` (code: 0);
    - ``group``: minus the mean over the group of each rollout's mean score (code: token-weighted, invalid rollouts
      counted as 0, and divided by the padded length once more);
    - ``batch``: the same over all rollouts (code: token-weighted, invalid ones counted as 0);
    - ``raw``: ``s_t``.

    Args:
        scores: ``[B, S]`` in [0, 1]; NaN for a segment without a score; anything behind the last segment.
        counts: ``[B]`` int, segments of each rollout, at least 1.
        group: ``[B]`` int.
        valid: ``[B]`` bool; a rollout with an unscored segment is invalid whatever this says.
        single_segment: What ``delta`` gives a rollout of one segment: 0, the group-relative advantage of its score, or
            the score; default by ``faithful``.
        outcome_mix: Adds this times the group-relative advantage of the last score to every segment.
        tokens: ``[B, S]`` int, tokens of each segment; needed for ``group`` and ``batch`` under ``code``.
        max_length: Padded length of a completion; needed for ``group`` under ``code``.

    Returns:
        Advantages ``[B, S]``, 0 where invalid or behind the last segment, and ``[B]`` bool: which rollouts are learned
        from. These are the valid ones; only ``delta`` under ``code`` adds those whose lost first segment the released
        code fails to notice, with an advantage of about -100.
    """
    scores, counts, group = np.asarray(scores, np.float64), np.asarray(counts), np.asarray(group)
    inside = np.arange(scores.shape[1])[None, :] < counts[:, None]
    lost = np.isnan(scores) & inside
    valid = np.asarray(valid, bool) & ~lost.any(axis=1)
    s = np.where(inside & valid[:, None], np.nan_to_num(scores), 0.0)
    rows, last = np.arange(len(s)), counts - 1
    final = s[rows, last]
    learned = valid
    if estimator == "delta":
        a = np.diff(s, axis=1, prepend=0.0)
        a[:, 0] = s[:, 0] - (_others_mean(s[:, 0], group, valid) if faithful == "recommended" else final)
        single = counts == 1
        rule = single_segment or SINGLE_SEGMENT[faithful]
        alone = {"zero": 0.0, "raw": final, "grpo": outcome_advantages(final, group, valid)}[rule]
        a[:, 0] = np.where(single, alone, a[:, 0])
        if faithful == "code":
            leaked = _add_leaks(a, scores, counts, lost)
            learned = valid | leaked
    elif estimator == "end":
        a = s - final[:, None]
        if faithful != "code":
            a[rows, last] = final
    elif estimator in ("group", "batch"):
        a = s - _baseline(s, counts, group, valid, estimator, faithful, tokens, max_length)[:, None]
    else:
        a = s.copy()
    if outcome_mix:
        a = a + outcome_mix * outcome_advantages(final, group, valid)[:, None]
    return np.where(inside & learned[:, None], a, 0.0), learned


def _baseline(
    s: np.ndarray,
    counts: np.ndarray,
    group: np.ndarray,
    valid: np.ndarray,
    estimator: Estimator,
    faithful: Faithful,
    tokens: np.ndarray | None,
    max_length: int | None,
) -> np.ndarray:
    """``[B]``: what ``group`` and ``batch`` subtract."""
    if estimator == "batch":
        group = np.zeros(len(s), np.int64)
    if faithful != "code":
        return _group_mean(s.sum(axis=1) / counts, group, valid)
    if tokens is None or (estimator == "group" and max_length is None):
        raise ValueError("the released group and batch baselines need the tokens of each segment and the padded length")
    inside = np.arange(s.shape[1])[None, :] < counts[:, None]
    weights = np.where(inside, tokens, 0)
    means = (s * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), 1)
    mean = _group_mean(means, group, np.ones_like(valid))
    return mean / max_length if estimator == "group" else mean


def _add_leaks(a: np.ndarray, scores: np.ndarray, counts: np.ndarray, lost: np.ndarray) -> np.ndarray:
    """Fills in what the released ``delta`` gives rollouts that it should drop; returns which those are.

    Its mark for a lost segment is overwritten when the last score is subtracted from the first segment, and the test
    for the mark then misses (``docs/methods/exprl.md`` 4, no. 5).
    """
    rows = np.arange(len(scores))
    final = np.nan_to_num(scores[rows, counts - 1])
    leaked = lost[:, 0] & (lost.sum(axis=1) == 1) & (counts > 1) & (final > 0)
    s = np.nan_to_num(scores[leaked])
    a[leaked] = np.diff(s, axis=1, prepend=0.0)
    a[leaked, 0] = _UNPARSED - final[leaked]
    return leaked


def _group_sum(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """``[B]``: the sum over the group that each row belongs to."""
    _, index = np.unique(group, return_inverse=True)
    return np.bincount(index, values)[index] if len(values) else np.zeros(0)


def _group_mean(values: np.ndarray, group: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """``[B]``: the mean over the valid rows of each row's group; 0 where there are none."""
    count = _group_sum(valid.astype(np.float64), group)
    return _group_sum(np.where(valid, values, 0.0), group) / np.maximum(count, 1)


def _others_mean(values: np.ndarray, group: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """``[B]``: the mean over the *other* valid rows of the group; a row's own value where there are none."""
    count = _group_sum(valid.astype(np.float64), group) - valid
    total = _group_sum(np.where(valid, values, 0.0), group) - np.where(valid, values, 0.0)
    return np.where(count > 0, total / np.maximum(count, 1), values)
