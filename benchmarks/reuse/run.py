"""What reuse saves and what returning noise costs: three arms, paired by seed; start it again and it goes on.

    nohup python benchmarks/reuse/run.py --seeds 0 1 2 3 4 5 > runs/reuse.log 2>&1 &     # trains, then prints the table
    python benchmarks/reuse/run.py --seeds 0 1 --out runs/reuse-small --small             # minutes instead of hours
    python benchmarks/reuse/run.py --seeds 0 1 2 3 4 5 --report                           # the table of what is there

Arms: ``fresh`` (noise of its own in every step), ``problem`` (noise returns, every token is decoded), ``verified`` (the
same noise and reuse). ``problem`` and ``verified`` must end with the same parameters; ``problem`` against ``fresh`` is
what returning noise does to learning. The arms of a seed run one after the other before the next seed begins, and
generation is measured in CPU seconds of the process, because other work on the machine changes wall clock.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from extra_jax.telemetry.metrics import read_metrics

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "quickstart.yaml"
ARMS = {
    "fresh": [],
    "problem": ["rollout.noise=problem"],
    "verified": ["rollout.noise=problem", "rollout.reuse=verified"],
}
EPOCHS = 10
FULL = {"problems": 512, "prompts": 64, "evaluated": 256}
SMALL = {"problems": 32, "prompts": 16, "evaluated": 32}


def settings(size: dict[str, int], arm: str, seed: int, run_dir: Path) -> list[str]:
    steps = EPOCHS * size["problems"] // size["prompts"]
    return [
        f"run.dir={run_dir}", f"run.seed={seed}", f"data.limit={size['problems']}", f"train.max_steps={steps}",
        f"train.prompts_per_step={size['prompts']}", f"eval.data.limit={size['evaluated']}", f"eval.every={steps // 5}",
        f"checkpoint.every={steps // 5}", "logging.rollouts_every=0", *ARMS[arm],
    ]  # fmt: skip


def train(arguments: list[str]) -> None:
    """One run in this process; writes what each call of the sampler for a step cost to ``generate.jsonl``."""
    from extra_jax.assemble import train
    from extra_jax.config import load_config
    from extra_jax.rollout.engine import Sampler
    from extra_jax.rollout.types import Rollouts
    from extra_jax.runtime import Runtime

    config = load_config(CONFIG, arguments)
    make, path = Runtime.sampler, Path(config.run.dir) / "generate.jsonl"

    def sampler(self: Runtime, params: Any, *, stream: str, seed: int | None = None) -> Sampler:
        one = make(self, params, stream=stream, seed=seed)
        return measured(one) if stream == "rollout" else one

    def measured(sampler: Sampler) -> Sampler:
        generate = sampler.generate

        def timed(weights: Any, requests: Any, step: int, *others: Any) -> Rollouts:
            wall, cpu = time.perf_counter(), time.process_time()
            rollouts = generate(weights, requests, step, *others)
            row = {"step": step + 1, "wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
            if len(rollouts) == config.train.completions_per_step:  # else it measures the bias of the noise
                with path.open("a") as file:
                    file.write(json.dumps(row | vars(rollouts.counters)) + "\n")
            return rollouts

        sampler.generate = timed
        return sampler

    Runtime.sampler = sampler
    train(config)


def report(out: Path, seeds: Sequence[int]) -> None:
    runs = {(arm, seed): Run(out / f"{arm}_seed{seed}") for arm in ARMS for seed in seeds}
    runs = {key: run for key, run in runs.items() if run.finished}
    seeds = [seed for seed in seeds if all((arm, seed) in runs for arm in ARMS)]
    if not seeds:
        print("no seed is finished in all arms yet")
        return
    print(f"seeds {seeds}; median CPU seconds of generation a step, first steps of a program left out as it compiles\n")
    print("| epoch | kept tokens | kept whole | fresh | problem | verified | fresh / verified |")
    print("|---|---|---|---|---|---|---|")
    for epoch in range(1, EPOCHS + 1):
        cost = {arm: np.array([runs[arm, seed].seconds(epoch) for seed in seeds]) for arm in ARMS}
        kept, whole = np.mean([runs["verified", seed].kept(epoch) for seed in seeds], axis=0)
        means = " | ".join(f"{cost[arm].mean():.2f}" for arm in ARMS)
        print(f"| {epoch} | {kept:.1%} | {whole:.1%} | {means} | {(cost['fresh'] / cost['verified']).mean():.2f} |")
    print("\n| seed | " + " | ".join(f"pass@{k} {arm}" for k in (1, 16) for arm in ARMS) + " | problem = verified |")
    print("|---" * 8 + "|")
    for seed in seeds:
        passed = [f"{runs[arm, seed].last(f'eval_pass@{k}'):.1%}" for k in (1, 16) for arm in ARMS]
        same = runs["problem", seed].parameters == runs["verified", seed].parameters
        print(f"| {seed} | " + " | ".join(passed) + f" | {'yes' if same else 'NO'} |")
    for k in (1, 16):
        pairs = [[runs[arm, seed].last(f"eval_pass@{k}") for arm in ("problem", "fresh")] for seed in seeds]
        print(f"\npass@{k}, problem - fresh: {interval(100 * np.subtract(*np.transpose(pairs)))} points")
    biases = [row["noise/bias"] for seed in seeds for row in runs["verified", seed].rows if "noise/bias" in row]
    print(f"\nbias of the noise: mean {100 * np.mean(biases):+.1f} points over {len(biases)} evaluations")


def interval(differences: np.ndarray) -> str:
    """Mean and 95 % interval (Student) of paired differences."""
    from scipy import stats

    if len(differences) < 3:
        return f"{differences.mean():+.1f} (too few seeds for an interval)"
    half = stats.t.ppf(0.975, len(differences) - 1) * stats.sem(differences)
    return f"{differences.mean():+.1f} [{differences.mean() - half:+.1f}, {differences.mean() + half:+.1f}]"


class Run:
    """What a run left behind."""

    def __init__(self, folder: Path):
        self.folder, self.finished = folder, (folder / "report.html").exists()
        if not self.finished:
            return
        self.rows = read_metrics(folder)
        lines = (folder / "generate.jsonl").read_text().splitlines()
        self.costs = {row["step"]: row for row in map(json.loads, lines)}  # of a step that ran twice, the last

    def _epoch(self, epoch: int) -> list[dict[str, Any]]:
        return [row for row in self.rows if "step_time" in row and epoch - 1 < row["epoch"] <= epoch]

    def seconds(self, epoch: int) -> float:
        return float(np.median([self.costs[row["step"]]["cpu"] for row in self._epoch(epoch)]))

    def kept(self, epoch: int) -> tuple[float, float]:
        """Shares of the tokens and of the completions that were not decoded."""
        costs = [self.costs[row["step"]] for row in self._epoch(epoch)]
        total = {name: sum(cost[name] for cost in costs) for name in ("tokens", "kept_tokens", "drafts", "kept_whole")}
        tokens = total["kept_tokens"] / (total["tokens"] + total["kept_tokens"])
        return tokens, total["kept_whole"] / max(total["drafts"], 1)

    def last(self, name: str) -> float:
        return next(row[name] for row in reversed(self.rows) if name in row)

    @property
    def parameters(self) -> str:
        files = sorted((self.folder / "export").glob("*.safetensors"))
        return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def main() -> None:
    if sys.argv[1:2] == ["--train"]:
        train(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/reuse"))
    parser.add_argument("--small", action="store_true", help="32 problems instead of 512")
    parser.add_argument("--report", action="store_true", help="train nothing")
    parser.add_argument("overrides", nargs="*", help="key.sub=value for every run")
    args = parser.parse_args()
    for seed in [] if args.report else args.seeds:
        for arm in ARMS:
            run_dir = args.out / f"{arm}_seed{seed}"
            if (run_dir / "report.html").exists():
                continue
            run_dir.mkdir(parents=True, exist_ok=True)
            arguments = settings(SMALL if args.small else FULL, arm, seed, run_dir) + args.overrides
            with (run_dir / "train.log").open("a") as log:
                command = [sys.executable, __file__, "--train", *arguments]
                done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False)
            if done.returncode:
                sys.exit(f"{run_dir}: status {done.returncode}, see {run_dir}/train.log")
    report(args.out, args.seeds)


if __name__ == "__main__":
    main()
