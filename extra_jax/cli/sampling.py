"""The verb ``sample``."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from extra_jax.cli.verb import Verb, call, positive
from extra_jax.errors import ExtraError

if TYPE_CHECKING:
    from extra_jax.config import Config


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
        path = Path(file)
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ExtraError(f"--file {file}: cannot be read as text ({error})") from error
        numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
        prompts += [_prompt_row(path, *row) if path.suffix == ".jsonl" else row[1] for row in numbered]
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


def _prompt_row(path: Path, number: int, line: str) -> Any:
    try:
        prompt = json.loads(line)["prompt"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ExtraError(f'{path}, row {number}: not an object with "prompt" ({error!r})') from error
    if isinstance(prompt, str):
        return prompt
    messages = prompt if isinstance(prompt, list) else []
    if messages and all(isinstance(m, dict) and {"role", "content"} <= m.keys() for m in messages):
        return tuple(messages)
    raise ExtraError(f"{path}, row {number}: prompt must be text or a list of chat messages with role and content")


def _sample(config: "Config", args: argparse.Namespace) -> None:
    prompts = graded_prompts(config, args.prompt, args.file) if args.grade else read_prompts(args.prompt, args.file)
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
        "extra-jax sample configs/quickstart.yaml --prompt 'What is 7 * 8?' --num-samples 4",
        _sample,
        _sample_arguments,
    ),
)
