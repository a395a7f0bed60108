"""Verbs that train: ``train``, ``sft``."""

import argparse
from typing import TYPE_CHECKING

from extra_jax.cli.verb import Verb, call

if TYPE_CHECKING:
    from extra_jax.config import Config


def _train(config: "Config", _: argparse.Namespace) -> None:
    if config.reward.source == "judge":
        call("exprl.loop", "train_on_scores", config)
    else:
        call("assemble", "train", config)


def _sft(config: "Config", _: argparse.Namespace) -> None:
    call("sft", "sft", config)


VERBS = (
    Verb(
        "train",
        "train with GRPO, then evaluate, export and report",
        "Continues the run in run.dir if there is one, from its last checkpoint, bit-identically.\n"
        "Writes metrics.jsonl, rollouts/, evals/, checkpoints/, export/ and report.html there.",
        "extra-jax train configs/quickstart.yaml run.dir=runs/first train.max_steps=50",
        _train,
    ),
    Verb(
        "sft",
        "fine-tune on the reference solutions of the problems",
        "Uses data, optim and sft; every problem needs a solution. Continues the run in run.dir if there is one.",
        "extra-jax sft configs/tiny_base.yaml run.dir=runs/base",
        _sft,
    ),
)
