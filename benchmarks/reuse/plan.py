"""Generation of a step with reuse, by the TPU compiler and the roofline: the check of the drafts, and what is decoded.

    python benchmarks/reuse/plan.py --config configs/qwen3_1_7b_grpo.yaml --topology v5e:4x4

Both programs are compiled for the topology, so that they are known to fit; seconds are the roofline's, at best. What is
kept of a completion that goes on is prefilled before it does; the table counts that for all of them, as the worst case.
"""

import argparse
from pathlib import Path

from extra_jax.config import load_config
from extra_jax.plan.compiler import prepare
from extra_jax.plan.main import make_plan

KEPT = (0.0, 0.5, 0.8)
REUSED = ["rollout.noise=problem", "rollout.reuse=verified"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/qwen3_1_7b_grpo.yaml"))
    parser.add_argument("--topology", default="v5e:4x4")
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    prepare()
    plan = make_plan(load_config(args.config, [*REUSED, *args.overrides]), args.topology, only=("decode", "verify"))
    decode, verify = (plan.phases[name] for name in ("decode", "verify"))
    work = plan.run.workload
    print(
        f"{args.config.name} on {args.topology}: {work.completions} completions of {work.completion_length} tokens, "
        f"{work.slots} slots; bound of decoding: {decode.bound}, of the check: {verify.bound}\n"
    )
    for program in plan.run.programs:
        total = plan.memory[program.name].total / 2**30
        print(f"{program.name}: {program.runs} calls, {total:.1f} of {plan.capacity / 2**30:.1f} GiB")
    print("\n| kept | check, s | kept parts again, s | decoding, s | all, s | without reuse / all |")
    print("|---|---|---|---|---|---|")
    for kept in KEPT:
        again, left = kept * verify.seconds, (1 - kept) * decode.seconds
        both = verify.seconds + again + left
        seconds = " | ".join(f"{part:.1f}" for part in (verify.seconds, again, left, both))
        print(f"| {kept:.0%} | {seconds} | {decode.seconds / both:.2f} |")


if __name__ == "__main__":
    main()
