"""The verb ``view``."""

import argparse

from extra_jax.cli.verb import Verb
from extra_jax.errors import ExtraError


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", nargs="+", help="run.dir of a run, or a folder of runs")
    parser.add_argument("--port", metavar="N", type=_port, default=6007, help="0 takes a free one (6007)")
    parser.add_argument(
        "--host", metavar="NAME", default="127.0.0.1", help="default: this machine only; on any other a token is needed"
    )
    parser.add_argument("--out", metavar="FILE.html", help="write one file with a sample, which needs no server")


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: 0 to 65535")
    return int(text)


def _view(args: argparse.Namespace) -> None:
    if args.out is not None and not args.out.endswith((".html", ".htm")):
        raise ExtraError(f"--out {args.out}: the page is an HTML file; give a name that ends in .html")

    from extra_jax.view.answers import Answers

    answers = Answers(args.runs)
    if args.out is not None:
        from extra_jax.view.page import write_page

        path, chosen, total = write_page(answers, args.out)
        print(f"wrote {path}: all curves, and {chosen:,} of {total:,} groups of completions")
        return
    from extra_jax.view.server import serve

    serve(answers, args.host, args.port, lambda url: print(f"open {url}\nCtrl-C ends it", flush=True))


VERBS = (
    Verb(
        "view",
        "show runs in the browser while they go on: curves, completions, lineages, judge replies",
        "Reads what runs have written, without jax; nothing is changed. Curves of several runs share their crosshair,\n"
        "and runs that differ in their seed only are one arm with an interval. Works without a network.",
        "extra-jax view runs/first runs/second",
        lambda config, args: _view(args),
        _arguments,
        takes_config=False,
    ),
)
