"""The verb ``plan``."""

import argparse
from typing import TYPE_CHECKING

from extra_jax.cli.verb import Verb, call, positive

if TYPE_CHECKING:
    from extra_jax.config import Config


def _plan(config: "Config", args: argparse.Namespace) -> int:
    return call("plan.main", "plan", config, args.topology, args.slices, args.search, args.json)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--topology", metavar="CHIP:AxB", required=True, help="TPU slice, e.g. v5e:4x4 or v5p:2x2x1")
    parser.add_argument("--slices", metavar="N", type=positive, default=1, help="slices of this topology (1)")
    parser.add_argument("--search", action="store_true", help="find the largest micro-batch and number of slots first")
    parser.add_argument("--json", action="store_true", help="print JSON, in bytes, FLOPs and seconds")


VERBS = (
    Verb(
        "plan",
        "what a run needs on a TPU slice that is not here: memory, traffic, time at best",
        "Compiles every program of a training step with the real TPU compiler (pip install 'extra-jax[tpu]'; no TPU\n"
        "is needed) and holds memory against plan.hbm_fraction of a chip. Exit status 1, with the setting that mends\n"
        "it, when the run does not fit. A model folder that is not here but is called like a size (Qwen3-1.7B) has\n"
        "its shape.",
        "extra-jax plan configs/qwen3_1_7b_grpo.yaml --topology v5e:4x4",
        _plan,
        _arguments,
        writes_run=False,
    ),
)
