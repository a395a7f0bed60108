"""Controls of the novelty bonus: distances whose meaning is removed or reversed (method/extra.md c.1-c.3).

A control takes the real distances of a step and gives others in their place; everything behind it (centring, scaling,
caps) is the same code. Arrays are ``[K, W]`` as in ``distance``.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from extra_jax.explore.keyed import keyed_rng, keyed_uniform

Control = Literal["none", "constant", "permute_within", "permute_across", "gaussian", "inverse", "hash"]

_ROUNDS = 50  # of clipping at 0 and matching again; far more than the moments need


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
            step; default: those of ``values`` (``match: self``). What is permuted, or drawn from the quantiles of
            ``values``, is then moved there by one map for all of the step, so its order stays.
    """
    if control == "none" or not gate.any():
        return values
    if control == "constant":
        return np.where(gate, running_mean, values)
    if control == "inverse":
        mean = np.sum(values, axis=1, keepdims=True, where=gate) / np.maximum(gate.sum(axis=1, keepdims=True), 1)
        return np.where(gate, 2.0 * mean - values, values)
    if control == "gaussian":
        draws = np.stack([_rng("gaussian", identity, uid).standard_normal(values.shape[1]) for uid in identity.uids])
        replaced = values.copy()
        replaced[gate] = _match_moments(draws[gate], *(moments or (values[gate].mean(), values[gate].std())))
        return replaced
    make = {"permute_within": _permute_within, "permute_across": _permute_across}.get(control)
    replaced = make(values, gate, identity) if make else _hashed(values, gate, identity, codes)
    if moments is not None:
        replaced[gate] = _match_moments(replaced[gate], *moments)
    return replaced


def quantile_map(values: np.ndarray, reference: np.ndarray, gate: np.ndarray) -> np.ndarray:
    """The order of ``values`` with the distribution of ``reference`` over the gated completions of a step.

    Equal values get the mean of the quantiles that they share.

    Source: method/extra.md c.3 (arm L1).
    """
    mapped = values.copy()
    if gate.any():
        _, rank, size = np.unique(values[gate], return_inverse=True, return_counts=True)
        ends = np.cumsum(size)
        total = np.concatenate([[0.0], np.cumsum(np.sort(reference[gate]))])
        mapped[gate] = ((total[ends] - total[ends - size]) / size)[rank]
    return mapped


def _rng(name: str, identity: Identity, uid: str) -> np.random.Generator:
    return keyed_rng(name, identity.seed, identity.step, uid)


def _permute_within(values: np.ndarray, gate: np.ndarray, identity: Identity) -> np.ndarray:
    replaced = values.copy()
    for k, uid in enumerate(identity.uids):
        members = np.flatnonzero(gate[k])
        replaced[k, members] = values[k, _rng("within", identity, uid).permutation(members)]
    return replaced


def _permute_across(values: np.ndarray, gate: np.ndarray, identity: Identity) -> np.ndarray:
    """Permutes among all gated completions whose groups have equally many of them."""
    replaced, size = values.copy(), gate.sum(axis=1)
    keys = np.stack([_rng("across", identity, uid).random(values.shape[1]) for uid in identity.uids])
    order = np.argsort(np.asarray(identity.uids))  # canonical: independent of the order in which problems came
    for k in np.unique(size[size > 0]):
        rows = [row for row in order if size[row] == k]
        cells = tuple(np.concatenate([[(row, w) for w in np.flatnonzero(gate[row])] for row in rows]).T)
        replaced[cells] = values[cells][np.argsort(keys[cells], kind="stable")]
    return replaced


def _hashed(
    values: np.ndarray, gate: np.ndarray, identity: Identity, codes: Sequence[Sequence[np.ndarray]]
) -> np.ndarray:
    """Quantiles of the gated values at a number that hangs on the set of n-grams alone."""
    uniform = np.zeros(values.shape)
    for k, w in zip(*np.nonzero(gate), strict=True):
        content = hashlib.sha256(np.unique(codes[k][w]).tobytes()).hexdigest()
        uniform[k, w] = keyed_uniform("hash", identity.seed, content)
    replaced = values.copy()
    replaced[gate] = np.quantile(values[gate], uniform[gate])
    return replaced


def _match_moments(draws: np.ndarray, mean: float, std: float) -> np.ndarray:
    """Draws moved to a mean and (population) deviation, not negative; clipping is undone by matching again."""
    x = draws
    for _ in range(_ROUNDS):
        spread = x.std()
        x = np.maximum(0.0, mean + (x - x.mean()) * (std / spread if spread > 0 else 0.0))
    return x
