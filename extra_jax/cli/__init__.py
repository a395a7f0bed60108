"""The command line: ``extra-jax VERB CONFIG.yaml key.sub=value ...``.

Thin on purpose: parse, load the configuration, call one function. Everything heavy (jax above all) is imported after
parsing, so that ``--help`` and typing errors answer at once.
"""

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, cast

from extra_jax.cli import (
    data,
    evaluation,
    exprl,
    models,
    planning,
    replaying,
    sampling,
    settings,
    training,
    viewing,
)
from extra_jax.cli.boundary import PlainOutput, check_writable, guarded
from extra_jax.cli.verb import Verb
from extra_jax.errors import printable, redact

VERBS = (
    *training.VERBS,
    *evaluation.VERBS,
    *sampling.VERBS,
    *exprl.VERBS,
    *models.VERBS,
    *data.VERBS,
    *settings.VERBS,
    *planning.VERBS,
    *replaying.VERBS,
    *viewing.VERBS,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb and returns the exit status: 0, 1 where a check found something, 2 after an error that the user
    can mend, 70 after a bug of ours (``boundary``).
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser, by_verb = build_parser()
    try:
        args, rest = parser.parse_known_args(argv)
        verb = next(verb for verb in VERBS if verb.name == args.verb)
        # argparse ends the positional list at the first option; what follows is given back and belongs to the list.
        if unknown := [text for text in rest if text.startswith("-") or not verb.takes_config]:
            by_verb[args.verb].error(f"unknown {'option' if unknown[0].startswith('-') else 'argument'} {unknown[0]}")
    except SystemExit as stop:  # help was printed, or what is wrong with the line
        return cast(int, stop.code)
    with _shown_log(getattr(args, "verbose", False)), redirect_stdout(cast(Any, PlainOutput(sys.stdout))):
        return guarded(verb.name, argv, lambda: _run(verb, args, rest), lambda: vars(args).get("run_dir"))


def build_parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The whole parser, and the parser of each verb."""
    parser = argparse.ArgumentParser(
        prog="extra-jax",
        description="Exploratory reinforcement learning of reasoning language models in JAX.",
        epilog="extra-jax VERB --help explains a verb.\n\nexample:\n  extra-jax train configs/quickstart.yaml",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    return parser, {verb.name: _add_verb(verbs, verb) for verb in VERBS}


def _add_verb(verbs: Any, verb: Verb) -> argparse.ArgumentParser:
    parser = verbs.add_parser(
        verb.name,
        help=verb.summary,
        description=f"{verb.summary}\n\n{verb.details}",
        epilog=f"example:\n  {verb.example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if verb.takes_config:
        parser.add_argument("config", metavar="CONFIG.yaml", help="configuration file")
        parser.add_argument(
            "overrides",
            metavar="key.sub=value",
            nargs="*",
            default=[],
            help="replaces one setting, e.g. train.max_steps=20",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="check everything, print what would be done, and stop (exit 0)"
        )
        parser.add_argument("-v", "--verbose", action="store_true", help="show every number of a step, and more")
    verb.add_arguments(parser)
    return parser


def _run(verb: Verb, args: argparse.Namespace, rest: Sequence[str]) -> int:
    if out := getattr(args, "out", None):
        is_file = verb.name == "view" or (verb.name == "data" and args.job == "contamination")
        check_writable(str(Path(out).parent) if is_file else out, "--out")
    if not verb.takes_config:
        return verb.run(None, args) or 0
    from extra_jax.config import load_config

    config = load_config(args.config, verb.overrides([*args.overrides, *rest]))
    args.run_dir = config.run.dir
    if args.dry_run:
        from extra_jax.dry_run import describe

        if verb.name == "sample":
            sampling.read_prompts(args.prompt, args.file)
        print(describe(config, verb.name), flush=True)
        return 0
    # On a pod the first process writes, and others may not.
    if verb.writes_run and config.distributed.enabled is not True:
        check_writable(config.run.dir, "run.dir")
    if sys.stderr.isatty():
        print("starting: Python loads jax, which takes a few seconds ...", file=sys.stderr)
    return verb.run(config, args) or 0


class _Stderr(logging.Handler):
    """To the standard error of the moment, which progress bars redirect to a place above them."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"extra-jax: {printable(redact(self.format(record)))}", file=sys.stderr)


@contextmanager
def _shown_log(verbose: bool = False) -> Iterator[None]:
    """Shows what the package logs: warnings, and what is compiled. Once: some library gives the root of all loggers a
    handler of its own."""
    log, handler = logging.getLogger("extra_jax"), _Stderr()
    before = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.DEBUG if verbose else logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before[0])
        log.propagate = before[1]


class _Version(argparse.Action):
    """``--version``, looked up only when asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, **kwargs: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help="print the version and stop")

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        print(f"extra-jax {version('extra-jax')}")
        parser.exit()
