"""Verbs that measure: ``eval`` and ``compare``."""

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from extra_jax.cli.verb import Verb, call, positive
from extra_jax.errors import ExtraError

if TYPE_CHECKING:
    from extra_jax.config import Config
    from extra_jax.telemetry.comparison import Row


def short_forms(overrides: Sequence[str]) -> list[str]:
    """``bench=a,b`` and ``n=16`` as ``eval.benchmarks`` and ``eval.num_generations``; the rest as it is."""
    return [_long_form(override) for override in overrides]


def _long_form(override: str) -> str:
    key, _, value = override.partition("=")
    if key == "n":
        return f"eval.num_generations={value}"
    if key != "bench":
        return override
    from extra_jax.config import benchmark_name

    sources = [source.strip() for source in value.split(",") if source.strip()]
    if not sources:
        raise ExtraError("bench= names no benchmark; write bench=aime24,math500")
    names = [benchmark_name(source) for source in sources]
    if len(set(names)) < len(names):
        raise ExtraError(f"{override}: two benchmarks would have the name {max(names, key=names.count)!r}")
    return "eval.benchmarks=" + json.dumps({n: {"source": s} for n, s in zip(names, sources, strict=True)})


def _eval(config: "Config", args: argparse.Namespace) -> None:
    measured = call("evaluate", "evaluate", config, args.base)
    for records in measured:
        _print_table(evaluation_table(records))
    if len(measured) == 2:
        _print_table(change_table(*measured))


def evaluation_table(records: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """One line a benchmark, and the plain mean over several."""
    first = next(iter(records.values()))
    scores = [name for name in first["summary"] if name.startswith(("pass@", "maj@"))]
    scores += [
        name for r in records.values() for name in r["summary"] if name.startswith("maj@") and name not in scores
    ]
    lines = [[f"step {first['step']}", "problems", "samples", *scores, "length", "truncated"]]
    for name, record in records.items():
        summary = record["summary"]
        cells = [_interval(summary[score]) if score in summary else "-" for score in scores]
        sizes = [f"{summary['num_problems']:,}", str(summary["num_generations"])]
        lines.append([name, *sizes, *cells, f"{record['mean_length']:,.0f}", f"{record['clipped_ratio']:.1%}"])
    if len(records) > 1:
        means = []
        for score in scores:
            values = [record["summary"][score]["mean"] for record in records.values() if score in record["summary"]]
            means.append(f"{sum(values) / len(values):.3f}" if len(values) == len(records) else "-")
        lines.append(["mean", "", "", *means, "", ""])
    return lines


def change_table(before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """The paired change of each pass@k."""
    from extra_jax.telemetry.report_data import difference, shared_pass_names

    scores = shared_pass_names([*before.values(), *after.values()])
    lines = [["change", *scores]]
    for name in after:
        changes = [difference(before[name], after[name], score) for score in scores]
        lines.append([name, *(_interval(change, "+.3f") for change in changes)])
    return lines


def _compare(_: None, args: argparse.Namespace) -> None:
    a, b = args.runs, args.others
    if b is None:
        if len(a) != 2:
            raise ExtraError("give RUN_A RUN_B, or several seeds as A0 A1 A2 --with B0 B1 B2")
        a, b = a[:1], a[1:]
    from extra_jax.telemetry.comparison import compare, verdict

    compared = compare(a, b, args.k)
    if args.json:
        print(json.dumps(compared.as_json()))
        return
    for name, arm in (("A", compared.a), ("B", compared.b)):
        print(f"{name}: " + ", ".join(f"{run.path} (seed {run.seed}, step {run.step})" for run in arm))
    seeds = len(compared.a)
    print(
        f"{seeds} {'seed' if seeds == 1 else 'seeds'} per arm, paired by problem{' and seed' if seeds > 1 else ''}; "
        "differences are B - A with 95 % intervals\n"
    )
    head = [
        "benchmark",
        "score",
        "A",
        "B",
        "B - A",
        "seeds and problems",
        "problems only*",
        "p seeds",
        "p problems*",
        "p Holm",
    ]
    _print_table([head, *(_comparison_line(row) for row in compared.rows)])
    print("* takes the trainings as they are: too narrow, and too sure, for a statement about the methods\n")
    print(verdict(compared))


def _comparison_line(row: "Row") -> list[str]:
    def pair(interval: tuple[float, float] | None) -> str:
        return "-" if interval is None else f"[{interval[0]:+.3f}, {interval[1]:+.3f}]"

    numbers = [f"{row.a:.3f}", f"{row.b:.3f}", f"{row.difference:+.3f}", pair(row.interval), pair(row.problem_interval)]
    p_seeds = "-" if row.p_seeds is None else f"{row.p_seeds:.4f}"
    return [row.benchmark, row.score, *numbers, p_seeds, f"{row.p_problems:.4f}", f"{row.p_holm:.4f}"]


def _interval(value: Mapping[str, float] | None, form: str = ".3f") -> str:
    return "-" if value is None else f"{value['mean']:{form}} [{value['low']:{form}}, {value['high']:{form}}]"


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print(re.sub(r" +$", "", "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))))


def _eval_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base", action="store_true", help="measure the initial model first and print the change")


def _compare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", help="RUN_A RUN_B, or the runs of arm A; RUN@STEP picks a step"
    )
    parser.add_argument("--with", metavar="RUN", nargs="+", dest="others", help="the runs of arm B, one for each seed")
    parser.add_argument(
        "--k", metavar="K", type=positive, help="of the pass@k beside pass@1 (the largest power of two)"
    )
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")


VERBS = (
    Verb(
        "eval",
        "measure pass@k and majority vote of the last checkpoint in run.dir, or of the initial model",
        "bench=NAME,NAME says on what: sets that `extra-jax data fetch` brought into eval.dir (aime24, aime25, amc23,\n"
        "math500, minerva, olympiadbench), JSONL or Parquet files, or generated tasks; n=N how many samples a problem\n"
        "is drawn. Without bench=, eval.data or eval.benchmarks of the configuration is used. Completions and the\n"
        "matrix problems x samples go to run.dir/evals/. A killed evaluation goes on; a finished one is only printed.",
        "extra-jax eval configs/qwen3_1_7b_grpo.yaml model.path=Qwen3-1.7B bench=aime24,math500 n=16 --base",
        _eval,
        _eval_arguments,
        short_forms,
    ),
    Verb(
        "compare",
        "say whether one run, or one arm of several seeds, is better than another",
        "Compares the last evaluations, paired by problem and seed: hierarchical bootstrap (seeds, then problems),\n"
        "sign-flip tests, Holm over all rows. Refuses evaluations with other problems, graders or sampling.",
        "extra-jax compare runs/grpo_0 runs/grpo_1 runs/grpo_2 --with runs/extra_0 runs/extra_1 runs/extra_2",
        _compare,
        _compare_arguments,
        takes_config=False,
    ),
)
