"""Controls of the novelty bonus: distances whose meaning is removed or reversed.

A control takes the real distances of a step and gives others in their place; ``matched`` makes a bonus of them that is
as large as the real one. Arrays are ``[K, W]``: ``K`` problems with at most ``W`` completions of this step.

Source: ``docs/methods/extra.md``, "Controls".
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from extra_jax.errors import ExtraError
from extra_jax.explore import Step, Transform
from extra_jax.explore.door import Report
from extra_jax.explore.keyed import keyed_rng, keyed_uniform
from extra_jax.explore.moments import Moments

from .lexical import step_codes
from .sizing import MOMENTS, paid_like_the_real
from .yoke import Yoke

Control = Literal["constant", "permute_within", "permute_across", "gaussian", "inverse", "hash"]
RANDOM = ("permute_within", "permute_across", "gaussian", "hash")
"""Controls whose distances are drawn, so that their size is a matter of choice."""

_ROUNDS = 50  # of clipping at 0 and matching again; far more than the moments need


def control(control: Control, *, yoked_to: str | None = None, **settings: Any) -> Transform:
    """The bonus of a control: ``novelty`` with other distances in the place of the real ones.

    Args:
        control: ``constant`` (G2): the running mean; ``permute_within`` (N2) a problem or ``permute_across`` (N3)
            problems with as many correct completions; ``gaussian`` (N4); ``inverse`` (N5): mirrored at the mean of the
            problem; ``hash`` (N6): a fixed function of the completion's bigrams.
        yoked_to: folder of a finished run with the real bonus (arm N1), which a random control then is as large as,
            step by step; default: as large as the real bonus on its own completions.
        settings: as of ``novelty``.
    """
    if control not in Control.__args__:
        raise ExtraError(f"there is no control {control!r}; there are {', '.join(Control.__args__)}")
    if yoked_to is not None and control not in RANDOM:
        raise ExtraError(
            f"control={control} is made of the run's own distances, so it cannot be yoked to {yoked_to}: leave "
            f"yoked_to out, or take one of {', '.join(RANDOM)}"
        )
    yoke = None if yoked_to is None else Yoke(Path(yoked_to), settings)
    size = "real_strength" if control == "constant" else "real_sum"
    return paid_like_the_real(replaced(control, yoke), size, yoke, settings)


def replaced(control: Control, yoke: Yoke | None = None, decay: float = 0.95) -> Transform:
    """Replaces the values by those of a control. It remembers the running moments, for ``constant``."""

    def update(step: Step, values: np.ndarray, state: Moments) -> tuple[np.ndarray, Moments, Report]:
        where = step.plain
        gate, known = where.spread(np.isfinite(values)), where.spread(np.nan_to_num(values))
        now = state.updated(known, gate, decay)
        codes = step_codes(step) if control == "hash" else []
        others = controlled(
            control,
            known,
            gate,
            Identity(step.run.seed, step.index, where.uids),
            running_mean=now.mean,
            codes=[[codes[row] for row in members] for members in where.members] if codes else (),
            moments=None if yoke is None else yoke.at(step).moments(int(gate.sum())),
        )
        return where.collect(np.where(gate, others, np.nan), step.run.group_size), now, {}

    return Transform(update=update, **MOMENTS)


@dataclass(frozen=True)
class Identity:
    """Who the completions of a step are, for random numbers that belong to them.

    Attributes:
        seed: of the run.
        step: of the run.
        uids: ``[K]`` problems.
    """

    seed: int
    step: int
    uids: Sequence[str]

    def rng(self, name: str, uid: str) -> np.random.Generator:
        """The generator of one problem in this step."""
        return keyed_rng(name, self.seed, self.step, uid)


def controlled(
    control: Control,
    values: np.ndarray,
    gate: np.ndarray,
    identity: Identity,
    *,
    running_mean: float = 0.0,
    codes: Sequence[Sequence[np.ndarray]] = (),
    moments: tuple[float, float] | None = None,
) -> np.ndarray:
    """The distances that take the place of ``values`` where ``gate`` is 1.

    Args:
        control: which.
        values: ``[K, W]`` real distances.
        gate: ``[K, W]`` bool, completions that may get a bonus.
        identity: keys of the random numbers.
        running_mean: of real distances, for ``constant``.
        codes: ``[K][W]`` n-gram codes of each completion, for ``hash``.
        moments: mean and (population) deviation that the random controls shall have over the gated completions of the
            step; default: those of ``values``. What is permuted, or drawn from the quantiles of ``values``, is then
            moved there by one map for all of the step, so its order stays.
    """
    if not gate.any():
        return values
    if control == "constant":
        return np.where(gate, running_mean, values)
    if control == "inverse":
        mean = np.sum(values, axis=1, keepdims=True, where=gate) / np.maximum(gate.sum(axis=1, keepdims=True), 1)
        return np.where(gate, 2.0 * mean - values, values)
    if control == "gaussian":
        draws = np.stack([identity.rng("gaussian", uid).standard_normal(values.shape[1]) for uid in identity.uids])
        others = values.copy()
        others[gate] = _match_moments(draws[gate], *(moments or (values[gate].mean(), values[gate].std())))
        return others
    permutations: dict[str, Callable[..., np.ndarray]] = {
        "permute_within": _permute_within,
        "permute_across": _permute_across,
    }
    permute = permutations.get(control)
    others = permute(values, gate, identity) if permute else _hashed(values, gate, identity, codes)
    if moments is not None:
        others[gate] = _match_moments(others[gate], *moments)
    return others


def _permute_within(values: np.ndarray, gate: np.ndarray, identity: Identity) -> np.ndarray:
    others = values.copy()
    for k, uid in enumerate(identity.uids):
        members = np.flatnonzero(gate[k])
        others[k, members] = values[k, identity.rng("within", uid).permutation(members)]
    return others


def _permute_across(values: np.ndarray, gate: np.ndarray, identity: Identity) -> np.ndarray:
    """Permutes among all gated completions whose groups have equally many of them."""
    others, size = values.copy(), gate.sum(axis=1)
    keys = np.stack([identity.rng("across", uid).random(values.shape[1]) for uid in identity.uids])
    order = np.argsort(np.asarray(identity.uids))  # canonical: independent of the order in which problems came
    for k in np.unique(size[size > 0]):
        rows = [row for row in order if size[row] == k]
        cells = tuple(np.concatenate([[(row, w) for w in np.flatnonzero(gate[row])] for row in rows]).T)
        others[cells] = values[cells][np.argsort(keys[cells], kind="stable")]
    return others


def _hashed(
    values: np.ndarray, gate: np.ndarray, identity: Identity, codes: Sequence[Sequence[np.ndarray]]
) -> np.ndarray:
    """Quantiles of the gated values at a number that hangs on the set of n-grams alone."""
    uniform = np.zeros(values.shape)
    for k, w in zip(*np.nonzero(gate), strict=True):
        content = hashlib.sha256(np.unique(codes[k][w]).tobytes()).hexdigest()
        uniform[k, w] = keyed_uniform("hash", identity.seed, content)
    others = values.copy()
    others[gate] = np.quantile(values[gate], uniform[gate])
    return others


def _match_moments(draws: np.ndarray, mean: float, std: float) -> np.ndarray:
    """Draws moved to a mean and (population) deviation, not negative; clipping is undone by matching again."""
    x = draws
    for _ in range(_ROUNDS):
        spread = x.std()
        x = np.maximum(0.0, mean + (x - x.mean()) * (std / spread if spread > 0 else 0.0))
    return x
