"""Plans the shipped recipe on TPU slices and writes what ``extra-jax plan`` prints, as text and as JSON.

python benchmarks/plan/run.py v5e:4x4 v6e:2x4
"""

import argparse
import json
from pathlib import Path

from rich.console import Console

from extra_jax.config import load_config
from extra_jax.plan.compiler import prepare
from extra_jax.plan.main import make_plan
from extra_jax.plan.table import show, to_json

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("topologies", nargs="+", metavar="CHIP:AxB")
    parser.add_argument("--config", default=str(HERE.parents[1] / "configs/qwen3_1_7b_grpo.yaml"))
    parser.add_argument("--set", nargs="*", default=[], metavar="key.sub=value")
    parser.add_argument("--name", default="qwen3_1_7b_grpo")
    args = parser.parse_args()
    prepare()
    for topology in args.topologies:
        plan = make_plan(load_config(args.config, args.set), topology)
        stem = HERE / f"{args.name}_{topology.replace(':', '_')}"
        console = Console(width=180, record=True)
        show(plan, console)
        text = "\n".join(line.rstrip() for line in console.export_text().splitlines())
        stem.with_suffix(".txt").write_text(text + "\n")
        stem.with_suffix(".json").write_text(json.dumps(to_json(plan), indent=2) + "\n")


if __name__ == "__main__":
    main()
