"""Stage 1 of every arm, then the same stage 2 from each, seed after seed; start it again and it goes on.

    nohup python -m benchmarks.exprl.run --seeds 0 1 2 > runs/exprl.log 2>&1 &
    python -m benchmarks.exprl.run --seeds 0 1 2 --status

A run is ``OUT/ARM_seedS/stage1`` or ``stage2``; a finished one is left alone, an interrupted one continues from its
last checkpoint. The judge is the embedded one, started here; ``ARMS`` says with which faults. Only stage 2 is
evaluated: before its first step, which is what stage 1 has made, and after its last. Further ``key.sub=value``
arguments go to every run.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.exploration.runs import steps_done, train

ROOT = Path(__file__).parents[2]
BASE = "tiny-base"
STAGE2 = "exprl_stage2"


@dataclass(frozen=True)
class Stage1:
    """What makes the weights that stage 2 starts from."""

    verb: str
    config: str
    judge: tuple[str, ...] | None = None  # switches of the embedded judge; None: there is none


ARMS: dict[str, Stage1 | None] = {
    "base": None,
    "sft": Stage1("sft", "exprl_sft"),
    "self_distillation": Stage1("exprl", "exprl_self_distillation"),
    "sparse_grpo": Stage1("train", "exprl_sparse_grpo"),
    "outcome": Stage1("exprl", "exprl_outcome", judge=()),
    "process": Stage1("exprl", "exprl_process", judge=()),
    "outcome_lenient": Stage1("exprl", "exprl_outcome", judge=("--lenient",)),
    "outcome_noisy": Stage1("exprl", "exprl_outcome", judge=("--lenient", "--noise", "0.1")),
    "process_noisy": Stage1("exprl", "exprl_process", judge=("--lenient", "--noise", "0.1")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, required=True, help="the same for every arm")
    parser.add_argument("--steps", type=int, default=16, help="of each RL run; SFT gets as many sequences")
    parser.add_argument(
        "--operations", type=int, nargs=2, default=(9, 9), metavar=("LEAST", "MOST"),
        help="of a chain; the base has seen at most eight",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("runs/exprl_evidence"))
    parser.add_argument("--status", action="store_true", help="only say how far each run is")
    parser.add_argument("overrides", nargs="*", help="key.sub=value for every run")
    args = parser.parse_args()
    if args.status:
        for seed in args.seeds:
            for arm in args.arms:
                stages = [f"{stage} {steps_done(run_dir(args.out, arm, seed, stage))}" for stage in (1, 2)]
                print(f"{arm}_seed{seed}: steps of stage {', of stage '.join(stages)}")
        return
    # The programs of one seed serve the others.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(args.out.resolve() / "compiled"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    for seed in args.seeds:
        for arm in args.arms:
            chains = "task.steps=[{},{}]".format(*args.operations)
            if stage1(args.out, arm, seed, args.steps, [f"data.{chains}", *args.overrides]):
                stage2(args.out, arm, seed, args.steps, [f"data.{chains}", f"eval.data.{chains}", *args.overrides])


def stage1(out: Path, arm: str, seed: int, steps: int, overrides: list[str]) -> bool:
    """Whether the weights are there now."""
    stage = ARMS[arm]
    if stage is None:
        return True
    where = run_dir(out, arm, seed, 1)
    chosen = [f"run.dir={where}", f"run.seed={seed}", "eval.data=null", *overrides]
    if stage.verb == "sft":  # 64 examples a step, where the other arms sample 256 completions
        chosen.append(f"sft.max_steps={4 * steps}")
    else:
        chosen.append(f"train.max_steps={steps}")
    config = ROOT / f"configs/{stage.config}.yaml"
    if stage.judge is None:
        train(config, where, chosen, stage.verb)
    else:
        with judge_server(*stage.judge) as url:
            train(config, where, [*chosen, f"judge.endpoint={url}"], stage.verb)
    return (where / "export").exists()


def stage2(out: Path, arm: str, seed: int, steps: int, overrides: list[str]) -> None:
    where = run_dir(out, arm, seed, 2)
    model = BASE if ARMS[arm] is None else run_dir(out, arm, seed, 1) / "export"
    chosen = [f"run.dir={where}", f"run.seed={seed}", f"model.path={model}", f"train.max_steps={steps}"]
    train(ROOT / f"configs/{STAGE2}.yaml", where, [*chosen, "eval.every=0", *overrides])


def run_dir(out: Path, arm: str, seed: int, stage: int) -> Path:
    return out / f"{arm}_seed{seed}" / f"stage{stage}"


@contextmanager
def judge_server(*switches: str) -> Iterator[str]:
    """The embedded judge on a free port; its address."""
    command = [sys.executable, str(ROOT / "scripts/judge_server.py"), "--port", "0", *switches]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield server.stdout.readline().strip()
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
