"""Scores to rollouts, by id. What does not fit is counted, never taken for a zero."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from extra_jax.errors import ExtraError

OK = "ok"
STATUSES = (OK, "parse", "truncated", "timeout", "transport", "too_long")
"""How judging a unit ended: a score; no valid score in the reply; the reply hit its cap before the score; no answer in
time; no connection or only errors; the question is longer than the judge's context."""

Duplicates = Literal["first", "mean", "error"]


@dataclass(frozen=True)
class Joined:
    """The scores of each rollout.

    Attributes:
        scores: For each rollout ``[T]`` float64, 1..5; NaN where there is none. ``T`` is 1 for a judge of whole
            rollouts.
        counts: ``units`` asked for, then how many of them are ``ok``, and ``missing`` (no row at all), ``duplicate``
            (further scores of a unit that has one), ``stale`` (a score of another text), ``foreign`` (rows for rollouts
            that are not here) and those that ended in each status other than ``ok``.
    """

    scores: list[np.ndarray]
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def complete(self) -> np.ndarray:
        """``[R]`` bool: whether every unit of a rollout has a score."""
        return np.array([not np.isnan(scores).any() for scores in self.scores], bool)


def join_scores(
    rollouts: Sequence[Mapping[str, Any]],
    rows: Iterable[Mapping[str, Any]],
    *,
    whole: bool,
    duplicates: Duplicates = "first",
) -> Joined:
    """Finds the scores of rollouts.

    A unit that failed in one file and succeeded in another has succeeded.

    Args:
        rollouts: Rows with ``rollout_id``, ``text_sha`` and ``segment_tokens``.
        rows: Score rows with the columns ``store.SCORE_KEYS``.
        whole: The judge saw whole rollouts, so each has one unit; otherwise one a segment.
        duplicates: Which of several scores of a unit counts; ``error`` refuses them.

    Raises:
        ExtraError: two scores of one unit under ``error``; an ``ok`` row without a score in 1..5.
    """
    place = {row["rollout_id"]: index for index, row in enumerate(rollouts)}
    units = [1 if whole else len(row["segment_tokens"]) for row in rollouts]
    known: dict[tuple[int, int], list[float]] = {}
    failed: dict[tuple[int, int], str] = {}
    counts = Counter(dict.fromkeys(("units", OK, "missing", "duplicate", "stale", "foreign", *STATUSES[1:]), 0))
    for row in rows:
        index = place.get(row["rollout_id"])
        if index is None or row["segment"] is None or not 0 <= row["segment"] < units[index]:
            counts["foreign"] += 1
        elif row["text_sha"] != rollouts[index]["text_sha"]:
            counts["stale"] += 1
        elif row["status"] != OK:
            failed[index, row["segment"]] = row["status"]
        else:
            known.setdefault((index, row["segment"]), []).append(_checked(row))
    scores = [np.full(count, np.nan) for count in units]
    for (index, segment), values in known.items():
        if len(values) > 1 and duplicates == "error":
            raise ExtraError(
                f"{len(values)} scores for segment {segment} of rollout {rollouts[index]['rollout_id']}: remove the "
                "files of one judge, or set exprl.duplicates to first or mean"
            )
        scores[index][segment] = float(np.mean(values)) if duplicates == "mean" else values[0]
        counts["duplicate"] += len(values) - 1
    counts.update(status for unit, status in failed.items() if unit not in known)
    counts["units"], counts[OK] = sum(units), len(known)
    counts["missing"] = counts["units"] - len(known.keys() | failed.keys())
    return Joined(scores, dict(counts))


def _checked(row: Mapping[str, Any]) -> float:
    if row["score"] is None or not 1 <= row["score"] <= 5:
        raise ExtraError(
            f"score {row['score']!r} of rollout {row['rollout_id']}, segment {row['segment']}, is not within 1 to 5; "
            "repair or remove the file that it is in"
        )
    return float(row["score"])
