"""The numbers of a step by reward function, over all processes, under TRL's names."""

import numpy as np

from extra_jax.parallel.processes import allgather_rows
from extra_jax.reward.scores import Scores


def reward_metrics(scores: Scores) -> dict[str, float]:
    """``rewards/NAME/mean`` and ``rewards/NAME/std``, before weights, the same on every process.

    Completions about which a function says nothing do not count. The deviation is TRL's, with ``n - 1``. A function
    that says nothing at all has no metric, and one value has no deviation.
    """
    if not scores.parts:
        return {}
    metrics = {}
    for name, part in zip(scores.parts, allgather_rows(np.stack(list(scores.parts.values()), axis=1)).T, strict=True):
        said = part[~np.isnan(part)]
        if said.size:
            metrics[f"rewards/{name}/mean"] = float(said.mean())
        if said.size > 1:
            metrics[f"rewards/{name}/std"] = float(said.std(ddof=1))
    return metrics
