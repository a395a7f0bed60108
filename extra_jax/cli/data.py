"""The verb ``data``: fetch standard sets, check a file, look for benchmark problems in a training set."""

import argparse
import json
from collections.abc import Sequence
from typing import Any

from extra_jax.cli.verb import Verb, positive, print_table
from extra_jax.errors import ExtraError

FOUND = 1
"""Exit status of a check that found something."""

_SHOWN = 10  # findings of a kind that are printed


def _data(_: None, args: argparse.Namespace) -> int:
    return {"fetch": _fetch, "lint": _lint, "contamination": _contamination}[args.job](args)


def _fetch(args: argparse.Namespace) -> int:
    from extra_jax.data.fetch import fetch

    for name in args.names:
        fetched = fetch(name, args.out, args.source)
        note = "" if fetched.rows == fetched.published else f"; {fetched.published:,} were published: check the source"
        print(f"{fetched.path}: {fetched.rows:,} problems{note}")
    return 0


def _lint(args: argparse.Namespace) -> int:
    from contextlib import closing

    from extra_jax.data.lint import KINDS, lint
    from extra_jax.data.rows import COLUMNS
    from extra_jax.data.tokenizer import load_tokenizer
    from extra_jax.reward.golds import form_problems, gold_problems
    from extra_jax.reward.workers import MathGrader

    if (args.tokenizer is None) != (args.max_prompt_length is None):
        raise ExtraError("prompts are measured with --tokenizer and --max-prompt-length; give both, or neither")
    with closing(MathGrader()) as grader:
        report = lint(
            args.file,
            columns=_columns(args.columns),
            gold_problems=gold_problems,
            form_problems=lambda problems: form_problems(problems, grader),
            same_answers=grader.same_answers,
            tokenizer=load_tokenizer(args.tokenizer) if args.tokenizer else None,
            max_prompt_length=args.max_prompt_length or 0,
        )
    if args.json:
        facts = {"rows": report.rows, "duplicates": vars(report.duplicates)}
        print(json.dumps(facts | {"findings": list(map(vars, report.findings))}))
        return FOUND if report.findings else 0
    for kind, meaning in KINDS.items():
        findings = [finding for finding in report.findings if finding.kind == kind]
        if findings:
            print(f"{kind}: {len(findings):,} {'row' if len(findings) == 1 else 'rows'} ({meaning})")
            _print_some([f"row {finding.row}: {finding.detail}" for finding in findings])
    if any(finding.detail.endswith("missing") for finding in report.findings):
        print(f"columns of other names are given with --columns: {', '.join(f'{name}=YOURS' for name in COLUMNS)}")
    d = report.duplicates
    if d.groups:
        print(
            f"duplicates: {d.groups:,} problems, {d.surplus:,} surplus rows; of {d.differing:,} problems the answers "
            f"differ as text, of {d.conflicting:,} the grader tells them apart"
        )
    counts = report.counts
    bad = sum(counts[kind] for kind in ("unreadable", "empty_answer", "unparseable_gold", "unearnable"))
    print(f"a right answer can be rewarded in {report.rows - bad:,} of {report.rows:,} rows")
    print(f"{args.file}: {report.rows:,} rows, {len(report.findings):,} findings")
    return FOUND if report.findings else 0


def _columns(given: Sequence[str]) -> dict[str, str]:
    from extra_jax.data.rows import COLUMNS

    pairs = [text.partition("=") for text in given]
    for name, separator, column in pairs:
        if name not in COLUMNS or not separator or not column:
            raise ExtraError(
                f"--columns {name}{separator}{column}: give NAME=COLUMN with a NAME of {', '.join(COLUMNS)}"
            )
    return {name: column for name, _, column in pairs}


def _contamination(args: argparse.Namespace) -> int:
    from extra_jax.data.contamination import contamination
    from extra_jax.data.sources import load_problems

    train = load_problems(args.train)
    flagged: set[int] = set()
    pairs: list[dict[str, Any]] = []
    lines = [("benchmark", "size", "rows exact", "items exact", "rows near", "items near")]
    for path in args.benchmarks:
        benchmark = load_problems(path)
        matches = contamination(train, benchmark)
        exact = [match for match in matches if match.kind == "exact"]
        rows, items = {match.row for match in exact}, {match.item for match in exact}
        near_rows, near_items = {m.row for m in matches} - rows, {m.item for m in matches} - items
        lines.append(
            (path, *(f"{n:,}" for n in (len(benchmark), len(rows), len(items), len(near_rows), len(near_items))))
        )
        flagged |= rows | near_rows
        pairs += [
            {
                "train": train[m.row].uid,
                "benchmark": path,
                "item": benchmark[m.item].uid,
                "kind": m.kind,
                "jaccard": round(m.jaccard, 3),
                "same_answer": m.same_answer,
            }
            for m in matches
        ]
    if args.out:
        _write_clean(args.train, {train[index].uid for index in flagged}, args.out)
    if args.json:
        print(json.dumps({"train": args.train, "rows": len(train), "flagged": len(flagged), "matches": pairs}))
        return FOUND if flagged else 0
    print_table(lines, right=True)
    if pairs:
        shown = [f"{p['train']} ~ {p['item']}: {p['kind']}, similarity {p['jaccard']:.2f}" for p in pairs]
        _print_some(shown, prefix="")
    print(f"{args.train}: {len(train):,} rows, {len(flagged):,} of them are in a benchmark or nearly so")
    if args.out:
        print(f"{args.out}: the other {len(train) - len(flagged):,} rows")
    return FOUND if flagged else 0


def _write_clean(path: str, flagged: set[str], out: str) -> None:
    from pathlib import Path

    from extra_jax.data.rows import to_problem
    from extra_jax.data.sources import read_rows
    from extra_jax.files import write_file

    kept = (row.values for row in read_rows(path) if to_problem(row, Path(path).stem).uid not in flagged)
    try:
        write_file(out, "".join(json.dumps(values, ensure_ascii=False) + "\n" for values in kept))
    except (ExtraError, TypeError) as error:  # a folder, a full disk; bytes or dates of a Parquet column
        raise ExtraError(f"--out {out}: cannot be written ({error}). Give a file; drop columns JSON lacks.") from error


def _print_some(lines: Sequence[str], prefix: str = "  ") -> None:
    for line in lines[:_SHOWN]:
        print(f"{prefix}{line}")
    if len(lines) > _SHOWN:
        print(f"{prefix}... and {len(lines) - _SHOWN:,} more (--json prints all)")


def _arguments(parser: argparse.ArgumentParser) -> None:
    jobs = parser.add_subparsers(dest="job", metavar="JOB", required=True)
    job = jobs.add_parser("fetch", help="bring standard sets from the hub, or from a folder, as JSONL")
    job.add_argument(
        "names", metavar="NAME", nargs="+", help="aime24, aime25, amc23, math500, minerva, olympiadbench, dapo_math_17k"
    )
    job.add_argument("--out", metavar="DIR", default="data", help="folder to write (data)")
    job.add_argument("--source", metavar="DIR", help="read NAME.jsonl or NAME.parquet here instead of the hub")
    job = jobs.add_parser("lint", help="check a file of problems row by row; exit status 1 if anything is found")
    job.add_argument("file", metavar="FILE", help="JSONL or Parquet")
    job.add_argument(
        "--columns", metavar="NAME=COLUMN", nargs="+", default=(), help="other names, e.g. prompt=task answer=gold"
    )
    job.add_argument("--tokenizer", metavar="DIR", help="measure prompts with this tokenizer")
    job.add_argument("--max-prompt-length", metavar="N", type=positive, help="tokens that a prompt may have")
    job.add_argument("--json", action="store_true", help="print all findings as JSON")
    job = jobs.add_parser(
        "contamination", help="find benchmark problems in a training file; exit status 1 if there are any"
    )
    job.add_argument("train", metavar="TRAIN", help="JSONL or Parquet")
    job.add_argument("benchmarks", metavar="BENCH", nargs="+", help="JSONL or Parquet")
    job.add_argument("--out", metavar="FILE.jsonl", help="write the training rows without a match")
    job.add_argument("--json", action="store_true", help="print all matches as JSON")


VERBS = (
    Verb(
        "data",
        "fetch standard data sets, check a file, look for benchmark problems in it",
        "fetch brings benchmarks and DAPO-Math-17k by name. lint names every bad row: unreadable golds, duplicates,\n"
        "conflicting labels, prompts that give the answer away. contamination finds exact and near (8-gram) copies.",
        "extra-jax data fetch aime24 math500\n  extra-jax data lint dapo_math_17k.jsonl\n"
        "  extra-jax data contamination dapo_math_17k.jsonl data/aime24.jsonl data/math500.jsonl",
        _data,
        _arguments,
        takes_config=False,
    ),
)
