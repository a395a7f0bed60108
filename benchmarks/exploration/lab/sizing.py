"""A bonus made of other distances than the real ones, and as large as the real bonus would have been."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from extra_jax.doors import call_with
from extra_jax.explore import Step, Transform, bonus, correct_only, distance
from extra_jax.explore.door import Report, RunInfo
from extra_jax.explore.moments import Centring, Moments, centred, strength
from extra_jax.explore.novelty import limits

from .yoke import Yoke

Size = Literal["real_sum", "real_strength", "own"]
_DOUBLINGS, _HALVINGS = 10, 50  # of a control's strength: 1,000 times is as good as everything capped
_SHAPE = ("alpha", "centring", "scaling", "cap_at", "cap_ratio")

MOMENTS: dict[str, Any] = {
    "init": lambda run: Moments(),
    "save": lambda state: dict(vars(state)),
    "load": lambda tree, run: Moments(**tree),
}
"""A transform whose state is ``Moments``."""


def paid_like_the_real(used: Transform, size: Size, yoke: Yoke | None, settings: dict[str, Any]) -> Transform:
    """``novelty(**settings)`` with the distances that ``used`` makes of the real ones."""
    shape = {name: value for name, value in settings.items() if name in _SHAPE}
    pool = {name: value for name, value in settings.items() if name not in _SHAPE}
    far = call_with(distance, pool, "explore.bonus of the laboratory")
    return bonus(far, correct_only(), matched(used, size=size, yoke=yoke, **shape))


@dataclass(frozen=True)
class Sized:
    """Running moments of the real and of the used distances, and the state of what makes the latter."""

    real: Moments
    used: Moments
    inner: Any


def matched(
    used: Transform,
    alpha: float = 0.5,
    *,
    size: Size = "real_sum",
    centring: Centring = "loo_correct",
    scaling: Literal["std_matched", "raw"] = "std_matched",
    cap_at: float | None = 3.0,
    cap_ratio: float | None = 1.5,
    yoke: Yoke | None = None,
    decay: float = 0.95,
) -> Transform:
    """In the place of ``standardise`` and ``cap``: a bonus of other distances, sized by the real ones.

    Reports ``match_*``, how the bonus compares with the one that the real distances would have given, and the columns
    ``novelty_used`` and ``bonus_real``.

    Args:
        used: from the real distances to those that are paid for; each has running moments of its own.
        alpha: as of ``novelty``, like ``centring``, ``scaling``, ``cap_at`` and ``cap_ratio``.
        centring: see there.
        scaling: see there.
        cap_at: see there.
        cap_ratio: see there.
        size: ``real_sum``: the bonus adds up, in absolute value, to what the real one adds up to, after centring,
            scaling and caps; ``real_strength``: the factor and the baseline of the real one, for a constant, which has
            no spread to be scaled by; ``own``: alpha by its own deviation.
        yoke: a run whose mean absolute bonus of the same step is taken instead of the real one.
        decay: of the running moments, a step.
    """

    def update(step: Step, values: np.ndarray, state: Sized) -> tuple[np.ndarray, Sized, Report]:
        where = step.plain
        others, inner, report = used.update(step, values, state.inner)
        real, real_gate = where.spread(np.nan_to_num(values)), where.spread(np.isfinite(values))
        fake, gate = where.spread(np.nan_to_num(others)), where.spread(np.isfinite(others))
        now, used_now = state.real.updated(real, real_gate, decay), state.used.updated(fake, gate, decay)
        past, used_past = state.real if state.real.count else now, state.used if state.used.count else used_now
        limit = where.spread(limits(step, None if cap_at is None else cap_at * alpha, cap_ratio))
        shadow = strength(alpha, scaling, now) * centred(real, real_gate, centring, past)
        shadow = np.clip(shadow, -limit, limit)
        paid = centred(fake, gate, centring, past if size == "real_strength" else used_past)
        total = np.abs(shadow).sum() if yoke is None else yoke.at(step).bonus * gate.sum()
        if size == "real_sum":
            factor = strength_for(float(total), paid, limit)
        else:
            factor = strength(alpha, scaling, now if size == "real_strength" else used_now)
        capped = np.abs(factor * paid) > limit
        paid = np.clip(factor * paid, -limit, limit)
        report = {
            **report,
            **_compared(paid[gate | real_gate], shadow[gate | real_gate]),
            **({} if yoke is None else yoke.report(step, fake[gate], paid[gate])),
            "novelty_within_std": now.within_std,
            "novelty_between_std": float(np.sqrt(now.between_variance)),
            "novelty_alpha_eff": factor,
            "bonus_capped_share": float(capped[gate].mean()) if gate.any() else np.nan,
            "novelty_used": _column(others),
            "bonus_real": _column(where.collect(np.where(real_gate, shadow, np.nan), step.run.group_size)),
        }
        bonuses = where.collect(np.where(gate, paid, np.nan), step.run.group_size)
        return bonuses, Sized(now, used_now, inner), report

    def init(run: RunInfo) -> Sized:
        if yoke is not None:
            yoke.read(run)
        return Sized(Moments(), Moments(), used.init(run))

    def save(state: Sized) -> dict[str, Any]:
        return {"real": dict(vars(state.real)), "used": dict(vars(state.used)), "inner": used.save(state.inner)}

    def load(tree: dict[str, Any], run: RunInfo) -> Sized:
        return Sized(Moments(**tree["real"]), Moments(**tree["used"]), used.load(tree["inner"], run))

    return Transform(init, update, save, load, used.reads)


def strength_for(total: float, values: np.ndarray, limit: np.ndarray) -> float:
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
    return float(high)


def _compared(paid: np.ndarray, shadow: np.ndarray) -> dict[str, float]:
    """Ratios of the bonus that is paid and the real one, ``[n]`` over everybody who may get either."""
    pairs = {
        "match_sum": (np.abs(paid).sum(), np.abs(shadow).sum()),
        "match_std": (paid.std(), shadow.std()) if len(paid) > 1 else (0.0, 0.0),
        "match_max": (np.abs(paid).max(initial=0.0), np.abs(shadow).max(initial=0.0)),
        "match_nonzero": ((paid != 0.0).sum(), (shadow != 0.0).sum()),
    }
    return {name: float(own / real) if real else np.nan for name, (own, real) in pairs.items()}


def _column(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(x) else round(float(x), 6) for x in values.flat]
