"""The verb ``replay``."""

import argparse

from extra_jax.cli.verb import Verb, call


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="run.dir/replay/step_N.npz")
    parser.add_argument(
        "--advantages-only", action="store_true", help="recompute the advantages, for which no parameters are needed"
    )


VERBS = (
    Verb(
        "replay",
        "compute one recorded training step again and say where it differs",
        "Reads a file that train.dump_steps wrote and recomputes advantages, loss, gradient norm and every other\n"
        "metric of its updates on the CPU, from the checkpoint before the step or the initial model. Exit status 1\n"
        "when a number differs.",
        "extra-jax replay runs/first/replay/step_000001.npz",
        lambda config, args: call("replay", "replay", args.file, args.advantages_only),
        _arguments,
        takes_config=False,
    ),
)
