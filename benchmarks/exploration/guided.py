"""What became of guided prompts, by whether the attempt that gave the prefix was correct, and by where it was cut.

    python benchmarks/exploration/guided.py runs/exploration

Reads the completions of every ``ARM_seedS`` with guided prompts. In arm P6 the same prompts come back without a prefix.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np

from extra_jax.reward.verdict import Verdict
from extra_jax.telemetry.records import read_rollouts, recorded_steps

CUTS = ((0.0, 0.3), (0.3, 0.5), (0.5, 1.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="folder of ARM_seedS runs")
    found: dict[str, list[tuple[bool, float, float]]] = defaultdict(list)
    for run in sorted(parser.parse_args().runs.glob("*_seed*")):
        found[run.name.partition("_seed")[0]] += guided_groups(run)
    print("| arm | attempt | cut at | groups | passed | mixed | all wrong |\n|---|---|---|---|---|---|---|")
    for arm, groups in found.items():
        for source, name in ((True, "correct"), (False, "failed")):
            of_source = [(fraction, rate) for correct, fraction, rate in groups if correct == source]
            cuts = ((0.0, 1.0),) if arm == "P6" else ((0.0, 1.0), *CUTS)
            for low, high in cuts:
                rates = np.array([rate for fraction, rate in of_source if low <= fraction < high])
                if len(rates):
                    where = "" if arm == "P6" else "all" if (low, high) == (0.0, 1.0) else f"{low} to {high}"
                    mixed = np.mean((rates > 0) & (rates < 1))
                    cells = f"{len(rates)} | {rates.mean():.1%} | {mixed:.0%} | {np.mean(rates == 0):.0%}"
                    print(f"| {arm} | {name} | {where} | {cells} |")


def guided_groups(run: Path) -> list[tuple[bool, float, float]]:
    """Of every guided group: was the attempt correct, where was it cut (share of its length), share that passed."""
    verdicts: dict[str, bool] = {}
    groups = []
    for step in recorded_steps(run):
        rows = read_rollouts(run, step)
        verdicts |= {f"{step}:{row['rollout_id']}": row["verdict"] == Verdict.CORRECT for row in rows}
        by_parent: dict[tuple[str, str], list[dict]] = defaultdict(list)
        for row in rows:
            if row["parent"] is not None:
                by_parent[row["uid"], row["parent"]].append(row)
        for (_, parent), members in by_parent.items():
            rate = float(np.mean([row["verdict"] == Verdict.CORRECT for row in members]))
            groups.append((verdicts[parent], members[0]["prefix_fraction"], rate))
    return groups


if __name__ == "__main__":
    main()
