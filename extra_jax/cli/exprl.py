"""Verbs of ExpRL: ``rollout``, ``judge``, ``calibrate``, ``exprl``. The judge and its calibration need no jax."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from extra_jax.cli.verb import Verb, call

if TYPE_CHECKING:
    from extra_jax.config import Config


def _rollout(config: "Config", _: argparse.Namespace) -> None:
    print(call("exprl.collect", "rollout", config))


def _out(overrides: Sequence[str]) -> list[str]:
    """``out=DIR`` is short for ``exprl.store=DIR``."""
    return [f"exprl.store={o.removeprefix('out=')}" if o.startswith("out=") else o for o in overrides]


def _exprl(config: "Config", _: argparse.Namespace) -> None:
    call("exprl.loop", "exprl", config)


def _judge(_: None, args: argparse.Namespace) -> None:
    from extra_jax.config import JudgeConfig, section_from_overrides

    config = section_from_overrides(JudgeConfig, args.settings, "extra-jax judge")
    print(call("judge.run", "judge", args.dir, config))


def _judge_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dir", metavar="DIR", help="folder with rollouts/, local or gs://; scores/ is written there")
    parser.add_argument("settings", metavar="key=value", nargs="*", help="a setting of the judge, e.g. concurrency=128")


def _calibrate(_: None, args: argparse.Namespace) -> None:
    print(call("judge.calibrate", "calibrate", args.dir))


def _calibrate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dir", metavar="DIR", help="folder with rollouts/ and scores/")


VERBS = (
    Verb(
        "rollout",
        "sample the problems of `data` into a store for a judge",
        "Samples train.num_generations completions of every problem from the last checkpoint in run.dir, or from the\n"
        "initial model, into Parquet shards in out=DIR: tokens, log-probabilities, segments, verdicts. Run it again\n"
        "and it continues.",
        "extra-jax rollout configs/exprl_process.yaml out=runs/store",
        _rollout,
        overrides=_out,
    ),
    Verb(
        "judge",
        "score rollouts with a judge behind an OpenAI-compatible endpoint",
        "Needs no jax: run it where the judge runs. Every reply is kept at once; after a kill the same command goes\n"
        "on and asks nothing twice. Units that got no answer at all are asked again by the next run. Settings are\n"
        "those of the section `judge` of a configuration (extra_jax/config/judge.py).",
        "extra-jax judge runs/store endpoint=http://localhost:8000/v1 model=Qwen3-4B-Instruct-2507",
        _judge,
        _judge_arguments,
        takes_config=False,
    ),
    Verb(
        "calibrate",
        "compare judge scores with verified verdicts",
        "Writes calibration.html and calibration.json: misplacement, AUROC, reliability, score shares, length bias,\n"
        "with bootstrap intervals. Judge the same rollouts also with condition=noref and condition=wrongref to see\n"
        "whether the judge uses the reference.",
        "extra-jax calibrate runs/store",
        _calibrate,
        _calibrate_arguments,
        takes_config=False,
    ),
    Verb(
        "exprl",
        "rounds of sampling, judging and training on the scores",
        "Every round samples exprl.steps_per_round steps' worth of problems into exprl.store, has them judged by\n"
        "judge.endpoint, or waits until somebody else has written scores there, and learns from them. Continues the\n"
        "run in run.dir if there is one.",
        "extra-jax exprl configs/exprl_process.yaml judge.endpoint=http://localhost:8000/v1",
        _exprl,
    ),
)
