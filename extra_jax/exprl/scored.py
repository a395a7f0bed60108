"""Scores in: rollouts of a store joined with a judge's scores, and what that makes of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from etils import epath

from extra_jax.config import AdvantageConfig, Config, ExprlConfig
from extra_jax.errors import ExtraError
from extra_jax.judge import store
from extra_jax.judge.advantages import outcome_advantages, process_advantages
from extra_jax.judge.identity import choose_rubric, judge_id
from extra_jax.judge.join import STATUSES, join_scores
from extra_jax.judge.metrics import auroc, first_seen_index, within_prompt_auroc
from extra_jax.judge.score import normalise
from extra_jax.judge.segment import token_segments
from extra_jax.reward.verdict import Verdict
from extra_jax.rollout.types import StopReason

_OVERLONG_PENALTY = 0.5  # of a score, with overlong=penalty
_TRUTH = {Verdict.CORRECT: 1.0, Verdict.WRONG: 0.0, Verdict.NO_ANSWER: 0.0}
"""Verdicts that say something about the policy."""


@dataclass(frozen=True)
class Scored:
    """Rollouts with what they are worth; ``R`` rows.

    Attributes:
        rows: The rollouts, with the columns ``stored.INDEX``.
        reward: ``[R]`` float64 in [0, 1] (before penalties), the score of the whole trace; NaN where there is none.
        learned: ``[R]`` bool; the others stay out of the loss.
        advantages: For each rollout ``[T]``, one a segment.
        scores: For each rollout what the judge gave, 1..5, one a unit; NaN where it gave none, empty without a judge.
        counts: How the join went (``judge.join.Joined.counts``), and ``stale_rollouts``.
    """

    rows: Sequence[Mapping[str, Any]]
    reward: np.ndarray
    learned: np.ndarray
    advantages: list[np.ndarray]
    scores: list[np.ndarray]
    counts: Mapping[str, int]

    def token_advantages(self, row: int) -> np.ndarray:
        """``[n]`` float64, one a token of rollout ``row``."""
        return self.advantages[row][token_segments(np.asarray(self.rows[row]["segment_tokens"]))]

    def take(self, chosen: np.ndarray) -> "Scored":
        """Some of the rollouts; the counts stay those of all."""
        rows, advantages, scores = ([column[i] for i in chosen] for column in (self.rows, self.advantages, self.scores))
        return Scored(rows, self.reward[chosen], self.learned[chosen], advantages, scores, self.counts)

    def metrics(self) -> dict[str, float]:
        """Numbers under ``judge/*``, and the reward under its usual names; what is undefined is left out."""
        known = ~np.isnan(self.reward)
        correct = np.array([row["verdict"] == Verdict.CORRECT for row in self.rows], bool)
        truth = known & np.array([row["verdict"] in _TRUTH for row in self.rows], bool)
        group = first_seen_index([row["group"] for row in self.rows])
        spread = [np.std(r, ddof=1) for g in np.unique(group) if len(r := self.reward[(group == g) & known]) > 1]
        segments = np.array([len(row["segment_tokens"]) for row in self.rows])
        units = max(self.counts["units"], 1)
        metrics = {
            "reward": _mean(self.reward[known]),
            "reward_std": _mean(spread),
            "frac_reward_zero_std": _mean(np.isclose(spread, 0.0)),
            "judge/scored": _mean(known),
            "judge/learned": _mean(self.learned),
            "judge/score_correct": _mean(self.reward[truth & correct]),
            "judge/score_wrong": _mean(self.reward[truth & ~correct]),
            "judge/auroc": auroc(self.reward[truth], correct[truth]),
            "judge/within_prompt_auroc": within_prompt_auroc(group[truth], self.reward[truth], correct[truth]),
            "judge/gap": _mean(self.reward[truth]) - _mean(correct[truth]),
            "judge/segments_mean": _mean(segments),
            "judge/frac_single_segment": _mean(segments == 1),
            "judge/stale_rollouts": self.counts["stale_rollouts"] / max(len(self.rows), 1),
        }
        rates = ("parse", "truncated", "timeout", "transport", "too_long", "missing", "duplicate", "stale")
        metrics |= {f"judge/{name}": self.counts[name] / units for name in rates}
        return {name: float(value) for name, value in metrics.items() if np.isfinite(value)}


def find_judge(folder: epath.Path, config: Config) -> tuple[str, str]:
    """Whose scores are read, as (folder of ``scores/``, its unit).

    That is ``exprl.scores``; or the judge that the section ``judge`` describes; or the only one there is.

    Raises:
        ExtraError: no scores, or several judges and none named.
    """
    cards = store.judges(folder)
    name = config.exprl.scores
    if name is None and config.judge.model is not None:
        name = judge_id(config.judge, choose_rubric(config.judge))
    if name is None and len(cards) > 1:
        raise ExtraError(f"{folder}: scores of several judges; choose one with exprl.scores={' | '.join(cards)}")
    if not cards or (name is not None and name not in cards):
        there = f"there are {', '.join(cards)}" if cards else f"`extra-jax judge {folder} ...` writes some"
        raise ExtraError(f"{folder}: no scores{'' if name is None else f' of {name}'}; {there}")
    name = name or next(iter(cards))
    return name, cards[name].get("unit", "rollout")


def score(
    rows: Sequence[Mapping[str, Any]], scores: Iterable[Mapping[str, Any]], unit: str, policy: str, config: Config
) -> Scored:
    """Joins rollouts with their scores and computes rewards and advantages.

    Args:
        rows: Rollouts with the columns ``stored.INDEX``, whole groups.
        unit: What that judge scored: ``rollout``, ``prefix`` or ``segment``.
        policy: Fingerprint of the policy that the rollouts should be of.

    Raises:
        ExtraError: the scores are of another kind than the advantages need, there are too few, or there is something
            that the configuration says to refuse.
    """
    settings = config.exprl
    if settings.advantage == "process" and unit == "rollout":
        raise ExtraError(
            "exprl.advantage=process needs a score for each segment, but the judge scored whole rollouts. Judge with "
            "rubric=process_prefix_v1, or set exprl.advantage=outcome"
        )
    if settings.advantage == "outcome" and unit == "segment":
        raise ExtraError("exprl.advantage=outcome needs scores of whole traces, but the judge saw single segments")
    if config.train.scale_rewards == "batch":
        raise ExtraError("train.scale_rewards=batch has no meaning for judge scores; use group or none")
    if config.train.advantage != AdvantageConfig():
        raise ExtraError(
            "train.advantage has no meaning for judge scores, for which there is exprl.advantage; remove it"
        )
    joined = join_scores(rows, scores, whole=unit == "rollout", duplicates=settings.duplicates)
    stale = np.array([row["policy"] != policy for row in rows], bool)
    if stale.any() and settings.stale == "error":
        raise ExtraError(
            f"{stale.sum():,} of {len(rows):,} rollouts are not by this policy ({policy}); set exprl.stale to drop or "
            "use"
        )
    usable = ~stale if settings.stale == "drop" else np.ones_like(stale)
    counts = dict(joined.counts) | {"stale_rollouts": int(stale.sum())}
    scored = _worth(rows, joined.scores, usable, counts, config)
    share = float((~np.isnan(scored.reward) & usable).mean()) if rows else 0.0
    if share < settings.min_scored:
        raise ExtraError(
            f"only {share:.1%} of {len(rows):,} rollouts have a score and are by this policy ({counts}). Judge the "
            f"rest, or lower exprl.min_scored={settings.min_scored:g}"
        )
    return scored


def unjudged(rows: Sequence[Mapping[str, Any]]) -> Scored:
    """Rollouts that no judge has seen: worth what the verifier says, with advantages that come from elsewhere."""
    reward = np.array([_TRUTH.get(row["verdict"], np.nan) for row in rows])
    nothing = [np.zeros(len(row["segment_tokens"])) for row in rows]
    counts = dict.fromkeys(("units", "missing", "duplicate", "stale", "stale_rollouts", *STATUSES), 0)
    return Scored(rows, reward, np.ones(len(rows), bool), nothing, [np.zeros(0)] * len(rows), counts)


def _worth(
    rows: Sequence[Mapping[str, Any]],
    raw: list[np.ndarray],
    usable: np.ndarray,
    counts: Mapping[str, int],
    config: Config,
) -> Scored:
    settings = config.exprl
    units = np.array([len(scores) for scores in raw])
    scores = np.full((len(rows), max(units, default=1)), np.nan)
    for row, values in enumerate(raw):
        scores[row, : len(values)] = normalise(values, settings.scale)
    everyone = np.arange(len(rows))
    final = _mixed(scores[everyone, units - 1], rows, settings)
    scores[everyone, units - 1] = final
    overlong = np.array([row["stop_reason"] == StopReason.LENGTH for row in rows], bool)
    if settings.overlong == "zero":
        scores[overlong] = np.where(np.isnan(scores[overlong]), np.nan, 0.0)
    elif settings.overlong == "penalty":
        scores[overlong] -= _OVERLONG_PENALTY
    elif settings.overlong == "mask":
        usable = usable & ~overlong
    group = first_seen_index([row["group"] for row in rows])
    segments = np.array([len(row["segment_tokens"]) for row in rows])
    if settings.advantage == "process":
        lengths = np.zeros(scores.shape, np.int64)
        for row, entry in enumerate(rows):
            lengths[row, : units[row]] = np.diff(entry["segment_tokens"], prepend=0)
        advantages, learned = process_advantages(
            scores,
            units,
            group,
            usable,
            settings.estimator,
            settings.faithful,
            single_segment=settings.single_segment,
            outcome_mix=settings.outcome_mix,
            tokens=lengths,
            max_length=config.rollout.max_completion_length,
        )
        parts = [advantages[row, :count] for row, count in enumerate(units)]
    else:
        last = scores[everyone, units - 1]
        learned = usable & ~np.isnan(last)
        scale: Literal["group", "none"] = "none" if config.train.scale_rewards == "none" else "group"
        whole = outcome_advantages(last, group, learned, scale=scale, faithful=settings.faithful)
        parts = [np.full(count, value) for count, value in zip(segments, whole, strict=True)]
    return Scored(rows, final, learned, parts, raw, counts)


def _mixed(final: np.ndarray, rows: Sequence[Mapping[str, Any]], settings: ExprlConfig) -> np.ndarray:
    """The last scores with their share of verified correctness; NaN where that is not known but needed."""
    if settings.verified_mix == 0:
        return final
    verified = np.array([_TRUTH.get(row["verdict"], np.nan) for row in rows])
    return (1 - settings.verified_mix) * final + settings.verified_mix * verified


def _mean(values: Any) -> float:
    values = np.asarray(values, np.float64)
    return float(values.mean()) if values.size else float("nan")
