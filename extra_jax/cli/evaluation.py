"""Verbs that measure and show: ``eval``, ``compare`` and ``report``."""

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from extra_jax.cli.verb import Verb, call, positive, print_table
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
    tables = [evaluation_table(records) for records in measured]
    if len(measured) == 2:
        tables.append(change_table(*measured))
    for index, table in enumerate(tables):
        print("\n" * bool(index), end="")
        print_table(table)


def evaluation_table(records: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """A column for each benchmark, and one for the mean over several; a line for each score."""
    from extra_jax.telemetry.evaluations import guessed_pass_at_k, mean_summary
    from extra_jax.telemetry.report_data import unjudged_share

    summaries = {name: record["summary"] for name, record in records.items()}
    if len(records) > 1:
        summaries["mean"] = mean_summary(list(records.values()))
    scores = dict.fromkeys(s for summary in summaries.values() for s in summary if s.startswith(("pass@", "maj@")))
    lines = [[f"step {next(iter(records.values()))['step']}", *summaries]]
    for score in scores:
        label = f"pass@1 (avg@{next(iter(records.values()))['num_generations']})" if score == "pass@1" else score
        lines.append([label, *(_interval(summary.get(score)) for summary in summaries.values())])
        guesses = [guessed_pass_at_k(record, score) for record in records.values()]
        if any(guess is not None for guess in guesses):
            lines.append(["  by guessing, without a model", *("-" if g is None else f"{g:.3f}" for g in guesses)])
    for label, shown in (
        ("problems", lambda record: f"{record['num_problems']:,} x {record['num_generations']} samples"),
        ("length", lambda record: f"{record['mean_length']:,.0f} tokens"),
        ("truncated", lambda record: f"{record['clipped_ratio']:.1%}"),
    ):
        lines.append([label, *(shown(record) for record in records.values())])
    unjudged = [unjudged_share(record) for record in records.values()]
    if any(unjudged):
        lines.append(["not judged, counted as not solved", *(f"{share:.1%}" for share in unjudged)])
    return lines


def change_table(before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """The paired change of each pass@k."""
    from extra_jax.telemetry.report_data import difference, shared_pass_names

    scores = shared_pass_names([*before.values(), *after.values()])
    lines = [["change", *after]]
    for score in scores:
        changes = [difference(before[name], after[name], score) for name in after]
        lines.append([score, *(_interval(change, "+.3f") for change in changes)])
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
    print_table([head, *(_comparison_line(row) for row in compared.rows)])
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


def _report(_: None, args: argparse.Namespace) -> None:
    from extra_jax.telemetry.closing import closing_lines
    from extra_jax.telemetry.report import write_report

    for run in args.runs:
        write_report(run)
        print("\n".join(closing_lines(run)))


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", nargs="+", help="a run directory; it may be training")


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
        "matrix problems x samples go to run.dir/evals/. A killed evaluation goes on; a finished one is only printed;\n"
        "one with other settings goes beside it, into a folder that is named.",
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
    Verb(
        "report",
        "write report.html of a run, also while it trains",
        "The page holds curves, the table before and after with intervals, and completions. It needs neither a\n"
        "network nor a script. A run writes it itself at its evaluations, at most once a minute, and at its end.",
        "extra-jax report runs/quickstart",
        _report,
        _report_arguments,
        takes_config=False,
    ),
)
