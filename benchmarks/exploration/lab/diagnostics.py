"""Distributions behind the means that a run reports, for experiments that read them.

A histogram is one share for each bin, ``NAME_0`` and on: equal bins of [0, 1] from low to high, whose shares add up to
1. Values outside count in the nearest bin. Nothing is reported where there is nothing to count.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from extra_jax.explore import RunInfo, Step, Transform, distance
from extra_jax.explore.door import Report, mean
from extra_jax.explore.packing import pack_texts, unpack_texts
from extra_jax.explore.prefix_state import Guided
from extra_jax.parallel.processes import allgather
from extra_jax.telemetry.statistics import spearman

from .lexical import diversity, step_codes
from .metrics import overlaps

SIMILARITY_BINS = 20
DECILES = 10
DEEPEST = 5  # depths from here on share one bin


class Seen(NamedTuple):
    """State of the distance, and the mean novelty of each problem at its last visit that had one."""

    distance: Any
    novelty: dict[str, float]


def diagnostics(**settings: Any) -> Transform:
    """The last of a run's transforms: hands the advantages through and reports distributions.

    Args:
        settings: as of ``distance``; it reports the real distances also in arms that pay for others or for none.
    """
    far = distance(**settings)

    def update(step: Step, values: np.ndarray, state: Seen) -> tuple[np.ndarray, Seen, Report]:
        real, inner, report = far.update(step, values, state.distance)
        right = np.isfinite(real) & step.correct
        now = {uid: mean(own) for uid, own in _by_problem(step, real, right).items()}
        both = np.array([(now[uid], state.novelty[uid]) for uid in now if uid in state.novelty]).reshape(-1, 2)
        rates = step.correct.mean(axis=1)[~step.guided]
        return (
            values,
            Seen(inner, state.novelty | now),
            {
                **report,
                **histogram("similarity_hist", 1.0 - real[right], SIMILARITY_BINS),
                "novelty_previous_spearman": spearman(both[:, 0], both[:, 1], decimals=6),
                **histogram("pass_rate_hist", rates, DECILES),
                **effective_size(values),
                **entropy_deciles(step),
                **lexical(step, real, right),
                **guided_prompts(step),
            },
        )

    def save(state: Seen) -> dict[str, Any]:
        numbers = np.array(list(state.novelty.values()), np.float64)
        return {"distance": far.save(state.distance), "uids": pack_texts(list(state.novelty)), "novelty": numbers}

    def load(tree: dict[str, Any], run: RunInfo) -> Seen:
        numbers = zip(unpack_texts(tree["uids"]), np.asarray(tree["novelty"]).tolist(), strict=True)
        return Seen(far.load(tree["distance"], run), dict(numbers))

    return Transform(lambda run: Seen(far.init(run), {}), update, save, load, far.reads)


def histogram(name: str, values: Sequence[float] | np.ndarray, bins: int) -> dict[str, float]:
    """Shares of ``values`` in ``bins`` equal bins of [0, 1]; a lower edge belongs to its bin, and 1 to the last."""
    values = np.asarray(values, np.float64)
    if not values.size:
        return {}
    # not numpy.histogram, whose rounded edges put a pass rate of 3/10 into the third tenth
    counts = np.bincount(np.clip(np.floor(values * bins), 0, bins - 1).astype(np.int64), minlength=bins)
    digits = len(str(bins - 1))
    return {f"{name}_{i:0{digits}d}": count / values.size for i, count in enumerate(counts)}


def effective_size(advantages: np.ndarray) -> dict[str, float]:
    """How many completions the advantages of a step weigh like: ``(sum |A|)^2 / sum A^2``, all where they are equal."""
    size = np.abs(advantages)
    squares = float((size**2).sum())
    return {
        "advantage_ess": float(size.sum() ** 2 / squares) if squares else 0.0,
        "advantage_nonzero_share": float((size > 0).mean()),
    }


def entropy_deciles(step: Step) -> dict[str, float]:
    """Mean token entropy (nats) by tenth of the completion: token ``t`` of ``L`` is in tenth ``floor(10 t / L)``.

    All processes call it together; a guided completion begins in the middle of an answer and is left out.
    """
    rollouts = step.rollouts
    plain = np.repeat(~step.guided, step.run.group_size)[step.local]
    mask = rollouts.completion_mask & plain[:, None]
    tenth = DECILES * np.arange(mask.shape[1]) // np.maximum(rollouts.lengths, 1)[:, None]
    entropies = rollouts.entropies[mask].astype(np.float64)
    own = np.stack([np.bincount(tenth[mask], weights, DECILES) for weights in (entropies, np.ones(len(entropies)))])
    total, count = allgather(own[None]).sum(axis=0)
    return {f"entropy_decile_{i}": total[i] / count[i] for i in range(DECILES) if count[i]}


def lexical(step: Step, real: np.ndarray, right: np.ndarray) -> dict[str, float]:
    """How different the texts are, and whether their bigrams say the same as the vectors; among siblings."""
    codes, where = step_codes(step), step.plain
    counted = where.present & where.spread(step.correct)
    pairs = counted[:, None, :] & ~np.eye(counted.shape[1], dtype=bool)
    similar = overlaps(where, codes, [[]] * len(where.uids))
    nearest = np.max(similar, axis=2, where=pairs, initial=-np.inf)
    words = where.collect(np.where(pairs.any(axis=2), 1.0 - nearest, 0.0), step.run.group_size)
    return {
        **diversity(codes, step.correct, ~step.guided),
        "novelty_lexical_mean": mean(words[right]),
        "novelty_lexical_spearman": spearman(real[right], words[right], decimals=6),
    }


def guided_prompts(step: Step) -> dict[str, float]:
    """Where the prefixes of guided prompts were cut, and how deep they are (from 5 on in one bin)."""
    own = [request.lineage.prefix for request in step.requests if isinstance(request.lineage, Guided)]
    depths = np.array([min(prefix.depth, DEEPEST) for prefix in own], np.int64)
    shares = {f"guided_depth_{d}": float((depths == d).mean()) for d in range(1, DEEPEST + 1)} if own else {}
    return histogram("cut_decile", [prefix.fraction for prefix in own], DECILES) | shares


def _by_problem(step: Step, values: np.ndarray, chosen: np.ndarray) -> dict[str, np.ndarray]:
    """The values ``[P, G]`` of the completions ``chosen`` of each problem that has any."""
    where = step.plain
    spread, kept = where.spread(values), where.spread(chosen)
    return {uid: spread[k, kept[k]] for k, uid in enumerate(where.uids) if kept[k].any()}
