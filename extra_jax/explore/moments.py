"""From distances to a bonus: running moments, centring and scaling.

The mean distance of a problem says nothing about diversity. Paid out, it is a second reward for being correct whose
noise drowns what the differences say; centring removes it. Source: ``docs/methods/extra.md``, "From distance to bonus".
"""

from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

Centring = Literal["none", "loo_correct", "shrink", "ema"]
_EPS = 1e-6  # added to deviations of distances


@dataclass(frozen=True)
class Moments:
    """Running moments of the distances of correct completions, as decayed sums; all 0 before the first step."""

    total: float = 0.0  # of distances, over `count` completions
    count: float = 0.0
    squares: float = 0.0  # within-group sum of squares, with `freedom` degrees of freedom
    freedom: float = 0.0
    means: float = 0.0  # this and the next two of group means, over `groups` groups with two or more
    means_squared: float = 0.0
    inverse_sizes: float = 0.0
    groups: float = 0.0

    def updated(self, values: np.ndarray, counted: np.ndarray, decay: float) -> "Moments":
        """With the distances ``values [K, W]`` of this step, where ``counted`` is 1."""
        size = counted.sum(axis=1)
        mean = np.sum(values, axis=1, where=counted) / np.maximum(size, 1)
        deviation = np.where(counted, values - mean[:, None], 0.0)
        several = size >= 2
        news = Moments(
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
        return Moments(**{name: decay * old[name] + value for name, value in asdict(news).items()})

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


def centred(values: np.ndarray, gate: np.ndarray, how: Centring, past: Moments) -> np.ndarray:
    """``[K, W]`` distances less a baseline; 0 outside of the gate.

    - ``loo_correct``: mean of the other gated completions; alone in its group a completion gets 0. Sums to 0.
    - ``ema``: running mean of the steps before.
    - ``shrink``: between the two by their variances (empirical Bayes); acts alone in a group, too.

    Args:
        values: ``[K, W]`` distances.
        gate: ``[K, W]`` bool, who may get a bonus.
        how: which baseline.
        past: moments before this step, because a baseline must not depend on what it is taken off.
    """
    if how == "none":
        return np.where(gate, values, 0.0)
    if how == "ema":
        return np.where(gate, values - past.mean, 0.0)
    others = gate.sum(axis=1, keepdims=True) - gate  # gated completions besides oneself
    total = np.sum(values, axis=1, keepdims=True, where=gate)
    # in this form equal distances give exact zeros
    difference = (values * (others + 1) - total) / np.maximum(others, 1)
    local = np.where(gate & (others > 0), difference, 0.0)
    if how == "loo_correct":
        return local
    noise = past.within_variance / np.maximum(others, 1)
    weight = np.where(others > 0, past.between_variance / np.maximum(past.between_variance + noise, 1e-30), 0.0)
    return np.where(gate, weight * local + (1.0 - weight) * (values - past.mean), 0.0)


def strength(alpha: float, scaling: Literal["std_matched", "raw"], now: Moments) -> float:
    """What a centred distance is multiplied with.

    ``std_matched`` divides by the running within-group deviation, so that alpha is the deviation of the bonus; 0 as
    long as no two correct completions of a problem have been seen, when nothing is known about it.
    """
    if scaling == "raw":
        return alpha
    return alpha / (now.within_std + _EPS) if now.freedom else 0.0
