"""What a verb of the command line is."""

import argparse
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from extra_jax.cli.compiling import announce
from extra_jax.interrupts import starting


@dataclass(frozen=True)
class Verb:
    """One job of the command line.

    Attributes:
        name: As typed.
        summary: One line for ``extra-jax --help``.
        details: A few sentences for the help of the verb.
        example: A command that works.
        run: Called with the configuration (``None`` where the verb takes none) and the parsed arguments; returns the
            exit status, or ``None`` for 0.
        add_arguments: Adds the options that only this verb has.
        overrides: Turns short forms of ``key.sub=value`` that only this verb has into the long ones.
        takes_config: Whether ``CONFIG.yaml key.sub=value ...`` and ``--dry-run`` belong to it.
        writes_run: Whether it writes into ``run.dir``.
    """

    name: str
    summary: str
    details: str
    example: str
    run: Callable[[Any, argparse.Namespace], int | None]
    add_arguments: Callable[[argparse.ArgumentParser], None] = lambda parser: None
    overrides: Callable[[Sequence[str]], Sequence[str]] = lambda given: given
    takes_config: bool = True
    writes_run: bool = True


def call(module: str, function: str, *arguments: Any) -> Any:
    """Calls ``extra_jax.module.function``, imported now and not before."""
    with starting():
        imported = importlib.import_module(f"extra_jax.{module}")
    model = getattr(arguments[0], "model", None) if arguments else None
    announce(str(model and (model.path or model.preset)))
    return getattr(imported, function)(*arguments)


def out_argument(parser: argparse.ArgumentParser) -> None:
    """``--out DIR``."""
    parser.add_argument("--out", metavar="DIR", required=True, help="folder to write")


def positive(text: str) -> int:
    """A whole number of at least 1, for ``add_argument(type=...)``."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def print_table(rows: Sequence[Sequence[str]], right: bool = False) -> None:
    """Prints rows of cells in columns; ``right`` aligns all but the first one there, as numbers want it."""
    widths = [max(map(len, column)) for column in zip_longest(*rows, fillvalue="")]
    for first, *others in rows:
        cells = [cell.rjust(w) if right else cell.ljust(w) for cell, w in zip(others, widths[1:], strict=False)]
        print("  ".join([first.ljust(widths[0]), *cells]).rstrip())
