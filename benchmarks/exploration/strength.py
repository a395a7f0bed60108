"""What other strengths of the novelty bonus would have paid on the completions of a run that is over.

    python benchmarks/exploration/strength.py runs/exploration/N1_seed0

Reads the distances and the task's advantages that the run recorded, and shapes them with other settings. Shares are of
mixed groups: mean |bonus| over mean |advantage| of correct completions. ``raw`` is the published bonus, 0.1 x distance.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from extra_jax.explore.moments import Moments, centred, strength
from extra_jax.reward.verdict import Verdict
from extra_jax.telemetry.records import read_rollouts, recorded_steps

RAW = {"centring": "none", "scaling": "raw", "alpha": 0.1, "cap_at": None, "cap_ratio": None}
SETTINGS: dict[str, dict[str, Any]] = {
    "raw, alpha 0.1": RAW,
    "raw, alpha 0.1, centred": RAW | {"centring": "loo_correct"},
} | {
    f"std_matched, alpha {alpha}, cap_ratio {ratio}": {
        "centring": "loo_correct", "scaling": "std_matched", "alpha": alpha, "cap_at": 3.0, "cap_ratio": ratio
    }
    for alpha, ratio in ((0.1, 3.0), (0.25, 3.0), (0.25, 1.5), (0.5, 1.5), (1.0, 1.5))
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="of an arm that logs distances")
    run = parser.parse_args().run
    steps = list(groups(run))
    print("| bonus | share of advantage | capped |\n|---|---|---|")
    for name, settings in SETTINGS.items():
        moments, size, whole, capped = Moments(), [], [], []
        for values, gate, task, mixed, right in steps:
            before, moments = moments, moments.updated(values, gate, decay=0.95)
            factor = strength(settings["alpha"], settings["scaling"], moments)
            bonus = np.abs(factor * centred(values, gate, settings["centring"], before))
            limit = most(settings, task, mixed)
            size.append(np.minimum(bonus, limit)[right])
            whole.append(np.abs(task[right]))
            capped.append((bonus > limit)[right])
        share = np.concatenate(size).mean() / np.concatenate(whole).mean()
        print(f"| {name} | {share:.1%} | {np.concatenate(capped).mean():.0%} |")


def most(settings: dict[str, Any], task: np.ndarray, mixed: np.ndarray) -> np.ndarray:
    """Largest bonus of each completion."""
    limit = np.full(task.shape, np.inf if settings["cap_at"] is None else settings["cap_at"] * settings["alpha"])
    if settings["cap_ratio"] is not None:
        limit = np.where(mixed, np.minimum(limit, np.abs(task) / settings["cap_ratio"]), limit)
    return limit


def groups(run: Path) -> Iterator[tuple[np.ndarray, ...]]:
    """Of each step ``[K, G]``: distances, who may get a bonus, task advantages, mixed groups, correct in these."""
    for step in recorded_steps(run):
        by_uid: dict[str, list[dict]] = defaultdict(list)
        for row in read_rollouts(run, step):
            by_uid[row["uid"]].append(row)
        cells = [
            [(r["novelty"] or 0.0, r["verdict"] == Verdict.CORRECT, r["novelty"] is not None, r["advantage_task"])
             for r in rows]
            for rows in by_uid.values()
        ]  # fmt: skip
        values, correct, known, task = np.moveaxis(np.array(cells, np.float64), 2, 0)
        right = correct.sum(axis=1, keepdims=True)
        mixed = np.broadcast_to((right > 0) & (right < correct.shape[1]), correct.shape)
        yield values, (correct * known).astype(bool), task, mixed, mixed & (correct > 0)


if __name__ == "__main__":
    main()
