"""From distances to a bonus: centring, scaling, caps (method/extra.md b.2).

Arrays are ``[K, W]`` as in ``distance``. The mean distance of a problem says nothing about diversity; paid out, it is a
second reward for being correct whose noise drowns what the differences say. Centring removes it.
"""

from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple

import numpy as np

from extra_jax.config import NoveltyConfig
from extra_jax.explore.distance import Distances

_EPS = 1e-6  # added to deviations of distances
_DOUBLINGS, _HALVINGS = 10, 50  # of a control's strength: 1,000 times is as good as everything capped


@dataclass(frozen=True)
class Scales:
    """Running moments of the distances of correct completions, as decayed sums; all 0 before the first step.

    Attributes:
        total: of distances, over ``count`` completions.
        squares: within-group sum of squares, with ``freedom`` degrees of freedom.
        means, means_squared, inverse_sizes: of group means, over ``groups`` groups with two or more.
    """

    total: float = 0.0
    count: float = 0.0
    squares: float = 0.0
    freedom: float = 0.0
    means: float = 0.0
    means_squared: float = 0.0
    inverse_sizes: float = 0.0
    groups: float = 0.0

    def updated(self, values: np.ndarray, counted: np.ndarray, decay: float) -> "Scales":
        """With the distances ``values [K, W]`` of this step, where ``counted`` is 1."""
        size = counted.sum(axis=1)
        mean = np.sum(values, axis=1, where=counted) / np.maximum(size, 1)
        deviation = np.where(counted, values - mean[:, None], 0.0)
        several = size >= 2
        news = Scales(
            total=float(np.sum(values, where=counted)),
            count=float(size.sum()),
            squares=float((deviation**2).sum()),
            freedom=float((size - 1).clip(min=0).sum()),
            means=float(mean[several].sum()),
            means_squared=float((mean[several] ** 2).sum()),
            inverse_sizes=float((1.0 / size[several]).sum()),
            groups=float(several.sum()),
        )
        old = asdict(self)
        return Scales(**{name: decay * old[name] + value for name, value in asdict(news).items()})

    @property
    def mean(self) -> float:
        """Mean distance of a correct completion."""
        return self.total / self.count if self.count else 0.0

    @property
    def within_variance(self) -> float:
        """Pooled variance inside groups."""
        return self.squares / self.freedom if self.freedom else 0.0

    @property
    def between_variance(self) -> float:
        """Variance of the groups' true means: that of the observed ones less their own sampling noise."""
        if self.groups < 1.5:
            return 0.0
        spread = self.means_squared / self.groups - (self.means / self.groups) ** 2
        return max(0.0, spread - self.within_variance * self.inverse_sizes / self.groups)

    @property
    def within_std(self) -> float:
        return float(np.sqrt(self.within_variance))


class Bonus(NamedTuple):
    """Attributes:
    values: ``[K, W]`` f64, added to advantages or rewards.
    capped: ``[K, W]`` bool, 1 where a cap acted.
    strength: what a centred distance was multiplied with (``alpha_eff``).
    """

    values: np.ndarray
    capped: np.ndarray
    strength: float


def centred(
    found: Distances,
    gate: np.ndarray,
    how: Literal["none", "loo_correct", "shrink", "ema", "loo_exact", "loo_all"],
    past: Scales,
) -> np.ndarray:
    """``[K, W]`` distances less a baseline; 0 outside the gate (but for ``loo_all``).

    - ``loo_correct``: mean of the other gated completions; alone in its group a completion gets 0. Sums to 0.
    - ``ema``: running mean of the steps before.
    - ``shrink``: between the two by their variances (empirical Bayes); acts alone in a group too.
    - ``loo_exact``: mean of the others' distances had this one not been sampled; ``ema`` where that is undefined.
    - ``loo_all``: keeps the expectation of the raw bonus, for gated and other completions alike.

    Source: method/extra.md b.2-3.
    """
    values = found.values
    if how == "none":
        return np.where(gate, values, 0.0)
    if how == "ema":
        return np.where(gate, values - past.mean, 0.0)
    others = gate.sum(axis=1, keepdims=True) - gate  # gated completions besides oneself
    if how in ("loo_correct", "shrink"):
        total = np.sum(values, axis=1, keepdims=True, where=gate)
        # in this form equal distances give exact zeros
        difference = (values * (others + 1) - total) / np.maximum(others, 1)
        local = np.where(gate & (others > 0), difference, 0.0)
        if how == "loo_correct":
            return local
        noise = past.within_variance / np.maximum(others, 1)
        weight = np.where(others > 0, past.between_variance / np.maximum(past.between_variance + noise, 1e-30), 0.0)
        return np.where(gate, weight * local + (1.0 - weight) * (values - past.mean), 0.0)
    pairs = gate[:, None, :] & ~np.eye(gate.shape[1], dtype=bool)  # [K, i, j]
    total = np.sum(found.without, axis=2, where=pairs)
    if how == "loo_all":
        return np.where(gate, values, 0.0) - total / max(gate.shape[1] - 1, 1)
    undefined = (found.undefined & pairs).any(axis=2) | (others == 0)
    baseline = np.where(undefined, past.mean, total / np.maximum(others, 1))
    return np.where(gate, values - baseline, 0.0)


def strength(config: NoveltyConfig, now: Scales, schedule: float = 1.0) -> float:
    """What a centred distance is multiplied with.

    ``std_matched`` divides by the running within-group deviation, so that alpha is the deviation of the bonus; 0 as
    long as no two correct completions of a problem have been seen, when nothing is known about it.
    """
    alpha = config.alpha * schedule
    if config.scaling != "std_matched":
        return alpha
    return alpha / (now.within_std + _EPS) if now.freedom else 0.0


def bonus(
    found: Distances,
    gate: np.ndarray,
    config: NoveltyConfig,
    *,
    past: Scales,
    strength: float,
    schedule: float = 1.0,
    advantages: np.ndarray | None = None,
    mixed: np.ndarray | None = None,
    total: float | None = None,
) -> Bonus:
    """The bonus of each completion.

    Args:
        found: distances, of the real metric or of a control.
        gate: ``[K, W]`` bool, who may get one.
        config: how.
        past: running scales before this step, for baselines, which must not depend on what they are taken off.
        strength: factor on centred distances.
        schedule: factor on alpha at this step, for the caps.
        advantages: ``[K, W]`` of the task, for ``cap_ratio``.
        mixed: ``[K, W]`` bool, 1 in groups with correct and other completions.
        total: sum of absolute values that the bonus shall have; ``strength`` is then changed to that end (controls).
    """
    values = shaped(found, gate, config, past)
    limit = np.full(values.shape, np.inf if config.cap is None else config.cap * config.alpha * schedule)
    if config.cap_ratio is not None and advantages is not None and mixed is not None:
        limit = np.where(mixed, np.minimum(limit, np.abs(advantages) / config.cap_ratio), limit)
    if total is not None:
        strength = _strength_for(total, values, limit)
    values = strength * values
    return Bonus(np.clip(values, -limit, limit), np.abs(values) > limit, strength)


def _strength_for(total: float, values: np.ndarray, limit: np.ndarray) -> float:
    """The factor on ``values`` for which ``sum |clip(factor x values)|`` is ``total``, or as near as the caps allow."""
    size = np.abs(values)
    if total == 0.0 or not size.any():
        return 0.0

    def reached(factor: float) -> float:
        return float(np.minimum(factor * size, limit).sum())

    low, high = 0.0, total / size.sum()
    for _ in range(_DOUBLINGS):
        if reached(high) >= total:
            break
        low, high = high, 2.0 * high
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if reached(middle) < total else (low, middle)
    return high


def shaped(found: Distances, gate: np.ndarray, config: NoveltyConfig, past: Scales) -> np.ndarray:
    """``[K, W]`` centred distances, divided by the largest distance of the group with ``scaling=group_max``."""
    values = centred(found, gate, config.centring, past)
    if config.scaling != "group_max":
        return values
    largest = np.max(found.values, axis=1, keepdims=True, initial=0.0)
    return np.divide(values, largest, out=np.zeros_like(values), where=largest > 0)


def schedule_factor(schedule: Literal["const", "linear", "cosine"], step: int, max_steps: int) -> float:
    """Factor on alpha at ``step`` (from 0); 0 at ``max_steps``."""
    done = min(step / max_steps, 1.0)
    return {"const": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + float(np.cos(np.pi * done)))}[schedule]
