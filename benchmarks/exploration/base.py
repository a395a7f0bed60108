"""Makes the problems and the base model of the assays on grids; a base that was stopped goes on.

    python benchmarks/exploration/base.py --out runs/grid

``OUT/mixed/train.jsonl``: short and long walks, so that the pass rate falls smoothly with their length, for the base.
``OUT/long/train.jsonl``, ``test.jsonl``: walks of 10 to 14 moves, of two kinds or more. The base is trained in two
stages: the first, of 600 steps, was a candidate of its own and too weak (see LOG.md). ``OUT/base/export``: the model.
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
LONG = {"size": (7, 7), "shortest": (10, 14), "slack": 0, "walls": 0.25, "kinds": 2, "guessable": 0.05}
MIXED = {"size": (7, 7), "shortest": (2, 14), "slack": 0, "walls": 0.25, "kinds": 1}
FILES = (("mixed", "train", 120_000, 1, MIXED), ("long", "train", 800, 2, LONG), ("long", "test", 256, 3, LONG))
PRESETS["lab"] = replace(PRESETS["tiny"], num_hidden_layers=5)  # 1.0 million parameters


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/grid"))
    out = parser.parse_args().out
    for name, split, count, seed, difficulty in FILES:
        file = out / name / f"{split}.jsonl"
        if not file.exists():
            write(file, grid(count, seed=seed, split=split, **difficulty))
    shared = [f"data.task={{folder: {out}/mixed}}", f"eval.data.task={{folder: {out}/long}}"]
    first = ["model.preset=lab", "data.limit=40000", "sft.max_steps=600", "optim.learning_rate=2e-3"]
    second = [f"model.path={out}/first/export", "data.limit=120000", "sft.max_steps=1300", "optim.learning_rate=1.5e-3"]
    for name, own in (("first", first), ("base", second)):
        if not (out / name / "export").exists():
            sft(load_config(CONFIG, [f"run.dir={out}/{name}", *shared, *own]))


def write(file: Path, problems: list[Problem]) -> None:
    with whole_file(file) as out:
        out.write("".join(json.dumps(asdict(problem)) + "\n" for problem in problems).encode())
    print(f"{file}: {len(problems)} problems", flush=True)


if __name__ == "__main__":
    main()
