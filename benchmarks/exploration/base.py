"""Makes the problems and the base model of the assays on grids; a base that was stopped goes on.

    python benchmarks/exploration/base.py --out runs/grid [sft.max_steps=800 ...]

``OUT/mixed/train.jsonl``: short and long walks, so that the pass rate falls smoothly with their length, for the base.
``OUT/long/train.jsonl``, ``test.jsonl``: walks of 10 to 14 moves, of two kinds or more. ``OUT/base/export``: the model.
"""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

from lab.grid import grid

from extra_jax.config import load_config
from extra_jax.data.problem import Problem
from extra_jax.files import whole_file
from extra_jax.model.config import PRESETS
from extra_jax.sft import sft

CONFIG = Path(__file__).parent / "grid_base.yaml"
LONG = {"size": (7, 7), "shortest": (10, 14), "slack": 0, "walls": 0.25, "kinds": 2}
MIXED = {"size": (7, 7), "shortest": (2, 14), "slack": 0, "walls": 0.25, "kinds": 1}
PRESETS["lab"] = replace(PRESETS["tiny"], num_hidden_layers=5)  # 1.0 million parameters


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/grid"))
    parser.add_argument("--sft", type=int, default=40_000, help="problems that the base is trained on")
    parser.add_argument("--train", type=int, default=800, help="problems of reinforcement learning")
    parser.add_argument("--test", type=int, default=256, help="held-out problems")
    parser.add_argument("overrides", nargs="*", help="key=value of grid_base.yaml")
    args = parser.parse_args()
    for name, count, seed, split, difficulty in (
        ("mixed", args.sft, 1, "train", MIXED),
        ("long", args.train, 2, "train", LONG),
        ("long", args.test, 3, "test", LONG),
    ):
        file = args.out / name / f"{split}.jsonl"
        if not file.exists():
            write(file, grid(count, seed=seed, split=split, **difficulty))
    places = [f"run.dir={args.out}/base", f"data.limit={args.sft}", f"data.task={{folder: {args.out}/mixed}}"]
    sft(load_config(CONFIG, [*places, f"eval.data.task={{folder: {args.out}/long}}", *args.overrides]))


def write(file: Path, problems: list[Problem]) -> None:
    with whole_file(file) as out:
        out.write("".join(json.dumps(asdict(problem)) + "\n" for problem in problems).encode())
    print(f"{file}: {len(problems)} problems", flush=True)


if __name__ == "__main__":
    main()
