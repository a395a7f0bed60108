"""Verbs that train and measure: ``train``, ``sft``, ``eval``."""

import argparse
from typing import TYPE_CHECKING

from extra_jax.cli.verb import Verb, call

if TYPE_CHECKING:
    from extra_jax.config import Config


def _eval(config: "Config", args: argparse.Namespace) -> None:
    metrics = call("evaluate", "evaluate", config)
    for name in (key for key in metrics if key.startswith("eval_pass@") and f"{key}_low" in metrics):
        low, high = metrics[f"{name}_low"], metrics[f"{name}_high"]
        print(f"{name.removeprefix('eval_')} {metrics[name]:.4f} [{low:.4f}, {high:.4f}]")


def _train(config: "Config", _: argparse.Namespace) -> None:
    if config.reward.source == "judge":
        call("exprl.loop", "train_on_scores", config)
    else:
        call("train", "train", config)


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
        lambda config, args: call("sft", "sft", config),
    ),
    Verb(
        "eval",
        "measure pass@k of the last checkpoint in run.dir, or of the initial model",
        "Samples eval.num_generations completions of every problem in eval.data and writes pass@k with 95 % intervals\n"
        "and the matrix problems x samples to run.dir/evals/.",
        "extra-jax eval configs/quickstart.yaml eval.num_generations=32",
        _eval,
    ),
)
