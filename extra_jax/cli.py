"""The command line: ``extra-jax VERB CONFIG.yaml key.sub=value ...``.

Thin on purpose: parse, load the configuration, call one function. Everything heavy (jax above all) is imported after
parsing, so that ``--help`` and typing errors answer at once.
"""

import argparse
import importlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from extra_jax.errors import ExtraError

if TYPE_CHECKING:
    from extra_jax.config import Config

USER_ERROR = 2
INTERRUPTED = 130
CLOSED_PIPE = 141


@dataclass(frozen=True)
class Verb:
    """One job of the command line.

    Attributes:
        name: As typed.
        summary: One line for ``extra-jax --help``.
        details: A few sentences for the help of the verb.
        example: A command that works.
        run: Called with the configuration and the parsed arguments.
        add_arguments: Adds the options that only this verb has.
    """

    name: str
    summary: str
    details: str
    example: str
    run: Callable[["Config", argparse.Namespace], Any]
    add_arguments: Callable[[argparse.ArgumentParser], None] = lambda parser: None


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb and returns the exit status: 0, or 2 after an error that the user can mend.

    ``ExtraError`` is printed without a traceback; any other exception is a bug of ours and keeps its own.
    """
    parser, by_verb = build_parser()
    args, rest = parser.parse_known_args(sys.argv[1:] if argv is None else argv)
    # argparse ends the positional list at the first option; what follows is given back and belongs to the list.
    if options := [text for text in rest if text.startswith("-")]:
        by_verb[args.verb].error(f"unknown option {options[0]}")
    try:
        return _run(next(verb for verb in VERBS if verb.name == args.verb), args, [*args.overrides, *rest])
    except ExtraError as error:
        print(f"extra-jax {args.verb}: {error}", file=sys.stderr)
        return USER_ERROR
    except BrokenPipeError:  # `extra-jax ... | head`; point stdout elsewhere, as Python flushes it once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    except KeyboardInterrupt:
        print(f"extra-jax {args.verb}: interrupted", file=sys.stderr)
        return INTERRUPTED


def build_parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The whole parser, and the parser of each verb."""
    parser = argparse.ArgumentParser(
        prog="extra-jax",
        description="Exploratory reinforcement learning of reasoning language models (Qwen3) in JAX.",
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
    parser.add_argument("config", metavar="CONFIG.yaml", help="configuration file")
    parser.add_argument(
        "overrides", metavar="key.sub=value", nargs="*", help="replaces one setting, e.g. train.max_steps=20"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything, print what would be done, and stop (exit 0)"
    )
    verb.add_arguments(parser)
    return parser


def _run(verb: Verb, args: argparse.Namespace, overrides: Sequence[str]) -> int:
    from extra_jax.config import load_config

    config = load_config(args.config, overrides)
    if args.dry_run:
        from extra_jax.dry_run import describe

        if verb.name == "sample":
            read_prompts(args.prompt, args.file)
        print(describe(config, verb.name), flush=True)
        return 0
    verb.run(config, args)
    return 0


def read_prompts(texts: Sequence[str], file: str | None) -> list[Any]:
    """The prompts of ``sample``: ``--prompt`` texts, then those of ``--file``.

    Args:
        texts: Given on the command line.
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


class _Version(argparse.Action):
    """``--version``, looked up only when asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, **kwargs: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help="print the version and stop")

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        print(f"extra-jax {version('extra-jax')}")
        parser.exit()


def _call(module: str, function: str, *arguments: Any) -> Any:
    return getattr(importlib.import_module(f"extra_jax.{module}"), function)(*arguments)


def _eval(config: "Config", args: argparse.Namespace) -> None:
    metrics = _call("evaluate", "evaluate", config)
    for name in (key for key in metrics if key.startswith("eval_pass@") and f"{key}_low" in metrics):
        low, high = metrics[f"{name}_low"], metrics[f"{name}_high"]
        print(f"{name.removeprefix('eval_')} {metrics[name]:.4f} [{low:.4f}, {high:.4f}]")


def _sample(config: "Config", args: argparse.Namespace) -> None:
    prompts = read_prompts(args.prompt, args.file)
    completions = _call("sample", "sample", config, prompts, args.num_samples)

    from extra_jax.parallel.processes import is_main
    from extra_jax.telemetry.records import prompt_text

    for index, completion in enumerate(completions if is_main() else ()):
        number = index % args.num_samples + 1
        if number == 1:
            print(f"=== prompt {index // args.num_samples + 1}\n{prompt_text(completion.prompt)}")
        entropy = f"mean entropy {completion.mean_entropy:.3f} nats"
        print(
            f"--- sample {number}: {completion.tokens} tokens, {completion.stop_reason}, {entropy}\n{completion.text}"
        )


def _sample_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompt", metavar="TEXT", action="append", default=[], help="a prompt; may be repeated")
    parser.add_argument("--file", metavar="FILE", help="a prompt per line, or .jsonl rows with `prompt`")
    parser.add_argument("--num-samples", metavar="N", type=_positive, default=1, help="completions per prompt (1)")


def _out_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", metavar="DIR", required=True, help="folder to write")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


VERBS = (
    Verb(
        "train",
        "train with GRPO, then evaluate, export and report",
        "Continues the run in run.dir if there is one, from its last checkpoint, bit-identically.\n"
        "Writes metrics.jsonl, rollouts/, evals/, checkpoints/, export/ and report.html there.",
        "extra-jax train configs/quickstart.yaml run.dir=runs/first train.max_steps=50",
        lambda config, args: _call("train", "train", config),
    ),
    Verb(
        "sft",
        "fine-tune on the reference solutions of the problems",
        "Uses data, optim and sft; every problem needs a solution. Continues the run in run.dir if there is one.",
        "extra-jax sft configs/tiny_base.yaml run.dir=runs/base",
        lambda config, args: _call("sft", "sft", config),
    ),
    Verb(
        "eval",
        "measure pass@k of the last checkpoint in run.dir, or of the initial model",
        "Samples eval.num_generations completions of every problem in eval.data and writes pass@k with 95 % intervals\n"
        "and the matrix problems x samples to run.dir/evals/.",
        "extra-jax eval configs/quickstart.yaml eval.num_generations=32",
        _eval,
    ),
    Verb(
        "sample",
        "print completions of prompts that you give",
        "Samples from the last checkpoint in run.dir, or from the initial model, with the rollout settings.",
        "extra-jax sample configs/quickstart.yaml --prompt 'What is 7 * 8?' --num-samples 4",
        _sample,
        _sample_arguments,
    ),
    Verb(
        "import-hf",
        "turn a Hugging Face model folder (model.path) into step 0 of run.dir",
        "Checks every tensor by name, shape and dtype while it streams. Training does this by itself; use it to\n"
        "check a download, or to convert once for a run that many hosts start.",
        "extra-jax import-hf configs/qwen3_1_7b_grpo.yaml model.path=models/Qwen3-1.7B",
        lambda config, args: _call("model.hf_convert", "import_hf", config),
    ),
    Verb(
        "export-hf",
        "write the last checkpoint in run.dir as a Hugging Face model folder",
        "The folder loads with transformers.AutoModelForCausalLM; it appears only when it is complete.",
        "extra-jax export-hf configs/quickstart.yaml run.dir=runs/first --out exported",
        lambda config, args: _call("model.hf_convert", "export_hf", config, args.out),
        _out_argument,
    ),
)

if __name__ == "__main__":
    sys.exit(main())
