"""What the tables of the TPU compiler share: cases that are measured one by one, as any of them takes minutes."""

import argparse
import csv
from collections.abc import Callable, Sequence
from pathlib import Path

from extra_jax.plan.compiler import prepare


def run_cases(about: str, path: Path, cases: Sequence[tuple], measure: Callable[..., dict]) -> None:
    """Appends ``measure(*case)`` to the CSV ``path`` for all cases, or for those that ``--only`` names by number."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=int, nargs="*", help="which of the cases, from 0")
    args = parser.parse_args()
    prepare()
    for index in args.only if args.only is not None else range(len(cases)):
        row = measure(*cases[index])
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if new:
                writer.writeheader()
            writer.writerow(row)
        print(row, flush=True)
