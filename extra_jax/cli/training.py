"""Verbs that train: ``train``, ``sft``."""

from extra_jax.cli.verb import Verb, call

VERBS = (
    Verb(
        "train",
        "train with GRPO, then evaluate, export and report",
        "Continues the run in run.dir if there is one, from its last checkpoint, bit-identically.\n"
        "Writes metrics.jsonl, rollouts/, evals/, checkpoints/, export/ and report.html there.",
        "extra-jax train configs/quickstart.yaml run.dir=runs/first train.max_steps=50",
        lambda config, args: call("train", "train", config),
    ),
    Verb(
        "sft",
        "fine-tune on the reference solutions of the problems",
        "Uses data, optim and sft; every problem needs a solution. Continues the run in run.dir if there is one.",
        "extra-jax sft configs/tiny_base.yaml run.dir=runs/base",
        lambda config, args: call("sft", "sft", config),
    ),
)
