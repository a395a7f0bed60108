"""What other strengths of the novelty bonus would have paid on the completions of a run that is over.

    python benchmarks/exploration/strength.py runs/exploration/N1_seed0

Reads the distances and the task's advantages that the run recorded, and shapes them with other settings. Shares are of
mixed groups: mean |bonus| over mean |advantage| of correct completions. ``raw`` is the published bonus, 0.1 x distance.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from extra_jax.config import NoveltyConfig
from extra_jax.explore.bonus import Scales, bonus, strength
from extra_jax.explore.distance import Distances
from extra_jax.reward.verdict import Verdict
from extra_jax.telemetry.records import read_rollouts, recorded_steps

RAW = {"centring": "none", "scaling": "raw", "alpha": 0.1, "cap": None, "cap_ratio": None}
SETTINGS = {"raw, alpha 0.1": RAW, "raw, alpha 0.1, centred": RAW | {"centring": "loo_correct"}} | {
    f"std_matched, alpha {alpha}, cap_ratio {ratio}": {"alpha": alpha, "cap_ratio": ratio}
    for alpha, ratio in ((0.1, 3.0), (0.25, 3.0), (0.25, 1.5), (0.5, 1.5), (1.0, 1.5))
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="of an arm that logs distances")
    run = parser.parse_args().run
    steps = list(groups(run))
    print("| bonus | share of advantage | capped |\n|---|---|---|")
    for name, changes in SETTINGS.items():
        settings, scales = NoveltyConfig(**changes), Scales()
        size, whole, capped = [], [], []
        for values, gate, task, mixed, right in steps:
            past, scales = scales, scales.updated(values, gate, settings.ema)
            made = bonus(
                Distances(values, np.zeros(values.shape, int)), gate, settings,
                past=past, strength=strength(settings, scales), advantages=task, mixed=mixed,
            )  # fmt: skip
            size.append(np.abs(made.values[right]))
            whole.append(np.abs(task[right]))
            capped.append(made.capped[right])
        size, whole, capped = map(np.concatenate, (size, whole, capped))
        print(f"| {name} | {size.mean() / whole.mean():.1%} | {capped.mean():.0%} |")


def groups(run: Path) -> Iterator[tuple[np.ndarray, ...]]:
    """Of each step ``[K, G]``: distances, who may get a bonus, task advantages, mixed groups, correct in these."""
    for step in recorded_steps(run):
        by_uid: dict[str, list[dict]] = defaultdict(list)
        for row in read_rollouts(run, step):
            by_uid[row["uid"]].append(row)
        cells = [
            [
                (r["novelty"], r["verdict"] == Verdict.CORRECT, r["nearest"] is not None, r["advantage_task"])
                for r in rows
            ]
            for rows in by_uid.values()
        ]
        values, correct, known, task = np.moveaxis(np.array(cells, np.float64), 2, 0)
        right = correct.sum(axis=1, keepdims=True)
        mixed = np.broadcast_to((right > 0) & (right < correct.shape[1]), correct.shape)
        yield values, (correct * known).astype(bool), task, mixed, mixed & (correct > 0)


if __name__ == "__main__":
    main()
