"""Trains arms x seeds of the experiment plan, one after another; start it again, or several times, and it goes on.

    nohup python benchmarks/exploration/run.py --arms G0 N1 N2 L1 P1 P3 P6 F --seeds 0 1 2 > runs/evidence.log 2>&1 &
    python benchmarks/exploration/run.py --status --arms ... --seeds ...
    python benchmarks/exploration/run.py train.max_steps=100 --arms ... --seeds ...

A run is ``OUT/ARM_seedS``; a finished one is left alone, one that was interrupted continues from its last checkpoint,
one that another process works on is skipped. Seeds come before arms, so that the arms of a seed, which are compared
with each other, are finished together. ``key.sub=value`` arguments, before the others, go to every run.
"""

import argparse
from pathlib import Path

from lab import arms
from runs import steps_done, train

from extra_jax.config import load_config

HERE = Path(__file__).parent
CONFIG = HERE / "evidence.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", required=True, choices=list(arms.ARMS), help="see lab/arms.py")
    parser.add_argument("--seeds", nargs="+", type=int, required=True, help="the same for every arm")
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--label", help="names a variant by what it overrides: OUT/ARM+LABEL_seedS")
    parser.add_argument("--out", type=Path, default=Path("runs/exploration"))
    parser.add_argument("--status", action="store_true", help="only say how far each run is")
    parser.add_argument("overrides", nargs="*", help="key.sub=value for every run")
    args = parser.parse_args()
    # settings of `novelty` and `prefixes` go where the arm has them, so they are read before it
    shared = [text for text in args.overrides if text.startswith("explore.")]
    others = [text for text in args.overrides if text not in shared]
    base = load_config(args.config, shared)
    for seed in args.seeds:
        for arm in args.arms:
            run_dir = args.out / f"{arm}{f'+{args.label}' if args.label else ''}_seed{seed}"
            overrides = [f"run.dir={run_dir}", f"run.seed={seed}"]
            overrides += arms.overrides(arm, base.explore.model_dump()) + others
            if args.status:
                total = load_config(args.config, overrides).train.max_steps
                print(f"{run_dir}: {steps_done(run_dir)} of {total}")
            else:
                train(args.config, run_dir, overrides)


if __name__ == "__main__":
    main()
