"""The verb ``sample``."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from extra_jax.cli.verb import Verb, call, positive
from extra_jax.data.rows import Row, read_prompt
from extra_jax.errors import ExtraError
from extra_jax.files import parse_json, read_text

if TYPE_CHECKING:
    from extra_jax.config import Config


_MOST = 100_000  # completions: a thousand prompts a hundred times; more is a typing error


def read_prompts(texts: Sequence[str], file: str | None) -> list[Any]:
    """The prompts of ``sample``: ``--prompt`` texts, then those of ``--file``.

    Args:
        file: Text file with one prompt per line, or ``.jsonl`` with a ``prompt`` per row (text or chat messages);
            empty lines are skipped.

    Returns:
        Strings, or tuples of chat messages.

    Raises:
        ExtraError: no prompt at all, a missing file, or a row without ``prompt``.
    """
    prompts: list[Any] = list(texts)
    if file is not None:
        # Not `splitlines`, which would also break at U+2028 inside a text.
        lines = read_text(file).replace("\r\n", "\n").split("\n")
        numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
        prompts += [_prompt_row(file, *row) if file.endswith(".jsonl") else row[1] for row in numbered]
    if not prompts:
        raise ExtraError("no prompt: give --prompt TEXT (several times if you like) or --file FILE")
    return prompts


def graded_prompts(config: "Config", texts: Sequence[str], file: str | None) -> list[Any]:
    """The prompts of ``sample --grade``: as without it, but the rows of a ``.jsonl`` are problems with answers.

    Where neither texts nor a file are given there are none, and ``sample`` takes problems of ``data``.
    """
    from extra_jax.data.sources import load_problems

    if file is not None and Path(file).suffix == ".jsonl":
        return [*texts, *load_problems(file, columns=config.data.columns or None)]
    return read_prompts(texts, file) if texts or file is not None else []


def _prompt_row(file: str, number: int, line: str) -> Any:
    row = Row(file, number, parse_json(line, f"{file}, row {number}"))
    if not isinstance(row.values, dict) or row.get("prompt") is None:
        raise ExtraError(f'{file}, row {number}: not an object with "prompt"')
    return read_prompt(row, "prompt")


def _sample(config: "Config", args: argparse.Namespace) -> None:
    prompts = graded_prompts(config, args.prompt, args.file) if args.grade else read_prompts(args.prompt, args.file)
    if max(1, len(prompts)) * args.num_samples > _MOST:
        raise ExtraError(
            f"--num-samples {args.num_samples:,} of {len(prompts):,} prompts are more than {_MOST:,} completions; "
            "they are all kept in memory and printed, so ask for fewer"
        )
    completions = call("sample", "sample", config, prompts, args.num_samples, args.grade)

    from extra_jax.data.problem import prompt_text
    from extra_jax.parallel.processes import is_main

    for index, completion in enumerate(completions if is_main() else ()):
        number = index % args.num_samples + 1
        if number == 1:
            print(f"=== prompt {index // args.num_samples + 1}\n{prompt_text(completion.prompt)}")
        entropy = f"mean entropy {completion.mean_entropy:.3f} nats"
        print(
            f"--- sample {number}: {completion.tokens} tokens, {completion.stop_reason}, {entropy}\n{completion.text}"
        )
        if completion.grade:
            parts = ", ".join(f"{name} {_value(value)}" for name, value in completion.rewards.items())
            detail = f" ({completion.grade.detail})" if completion.grade.detail else ""
            print(f"... {completion.grade.verdict}{detail}; reward {_value(completion.reward)}: {parts}")


def _value(value: float | None) -> str:
    return "none" if value is None or value != value else f"{value:g}"


def _sample_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompt", metavar="TEXT", action="append", default=[], help="a prompt; may be repeated")
    parser.add_argument("--file", metavar="FILE", help="a prompt per line, or .jsonl rows with `prompt`")
    parser.add_argument("--num-samples", metavar="N", type=positive, default=1, help="completions per prompt (1)")
    parser.add_argument(
        "--grade", action="store_true", help="print rewards by function; .jsonl rows are problems; default: of `data`"
    )


VERBS = (
    Verb(
        "sample",
        "print completions of prompts that you give",
        "Samples from the last checkpoint in run.dir, or from the initial model, with the rollout settings.",
        "extra-jax sample configs/quickstart.yaml --prompt $'countdown 24: 3 5 8\\n' --num-samples 4",
        _sample,
        _sample_arguments,
    ),
)
