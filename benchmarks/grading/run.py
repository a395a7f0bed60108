"""Grade real answers: golds against themselves and each other, real rollouts against other graders, and throughput.

    python benchmarks/grading/run.py [--data ../shared/data] [--out benchmarks/grading]

Writes ``exceptions.csv`` (golds that are not correct against themselves, or that cannot be graded against),
``cross.csv`` (golds of different problems that are judged equal), ``rollouts.csv`` (disagreements between graders on
real responses) and ``summary.json``. The last column of the tables, the judgement by hand, comes from
``judgements.json``.
"""

import argparse
import csv
import dataclasses
import json
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

from dapo_rule import grade_dapo

from extra_jax.answers import symbolic, verify
from extra_jax.answers.latex import clean
from extra_jax.data.problem import Problem
from extra_jax.reward.comparable import grade_dapo_strict_box, math_verify_task
from extra_jax.reward.math import NAME, begin, gold_problem, grade_math, plain_rational
from extra_jax.reward.math import Options as MathOptions
from extra_jax.reward.verdict import Verdict
from extra_jax.reward.workers import MathGrader, WorkerPool

BENCHES = ["aime24", "aime25", "amc23", "gsm8k_test", "math500", "minerva", "olympiadbench"]
TRAIN_STEP = 7500 / 2000
REPEATS = 5
Files = dict[str, list[dict[str, Any]]]


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSONL file."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def golds_of(data: Path) -> Files:
    """All benchmark rows and 2,000 evenly spaced rows of MATH train, by file."""
    files = {name: rows_of(data / "bench" / f"{name}.jsonl") for name in BENCHES}
    train = rows_of(data / "train" / "math_train.jsonl")
    files["math_train_2000"] = [train[int(place * TRAIN_STEP)] for place in range(2000)]
    return files


def respelled(shape: Any) -> Any:
    """The same shape with another text everywhere, so that no comparison can be decided by equal text."""
    if isinstance(shape, tuple):
        return tuple(respelled(part) for part in shape)
    if not dataclasses.is_dataclass(shape) or not hasattr(shape, "text"):
        return shape
    fields = {field.name: respelled(getattr(shape, field.name)) for field in dataclasses.fields(shape)}
    if type(shape).__name__ not in ("Words", "Opaque"):
        fields["text"] = f" {shape.text} "
    return type(shape)(**fields)


def against_itself(
    files: dict[str, list[dict[str, Any]]], notes: dict[str, str]
) -> tuple[dict[str, Any], list[list[str]]]:
    """Gold against itself: as a trainer would ask, and by value alone."""
    summary, exceptions = {}, []
    for name, rows in files.items():
        correct = by_value = unreadable = 0
        for row in rows:
            gold = row["answer"]
            grade = grade_math(gold, rf"\boxed{{{gold}}}")
            shapes = verify.readings(clean(gold))
            valued, _ = verify.decide(shapes, [respelled(shape) for shape in shapes], False)
            problem = gold_problem(gold)
            correct += grade.verdict == Verdict.CORRECT
            by_value += valued == Verdict.CORRECT
            unreadable += bool(problem)
            if grade.verdict != Verdict.CORRECT or valued != Verdict.CORRECT or problem:
                reason = problem or grade.detail or "not equal by value"
                exceptions.append([name, row["id"], gold, grade.verdict, valued, reason, notes.get(row["id"], "")])
        summary[name] = {"golds": len(rows), "correct": correct, "correct_by_value": by_value, "unreadable": unreadable}
    return summary, exceptions


def against_each_other(files: Files, notes: dict[str, str]) -> tuple[dict[str, Any], list[list[str]]]:
    """Every ordered pair of different golds of one file; the pairs judged equal."""
    summary, equal = {}, []
    for name, rows in files.items():
        texts = {clean(row["answer"]): row["answer"] for row in rows}
        golds = [(text, plain_rational(text), verify.readings(clean(text))) for text in texts.values()]
        for gold, number, shapes in golds:
            for other, other_number, other_shapes in golds:
                if gold is other:
                    continue
                if number is not None and other_number is not None:
                    same = number == other_number
                else:
                    same = verify.decide(shapes, other_shapes, False)[0] == Verdict.CORRECT
                if same:
                    equal.append(
                        [name, gold, other, notes.get(f"{gold} <- {other}", notes.get(kind_of_pair(gold, other), ""))]
                    )
        pairs = len(golds) * (len(golds) - 1)
        summary[name] = {"different_golds": len(golds), "pairs": pairs, "equal": sum(row[0] == name for row in equal)}
    return summary, equal


def kind_of_pair(gold: str, other: str) -> str:
    """A class of equal pairs that one judgement covers."""
    signs = {
        "_": "numeral in a base",
        "circ": "degrees",
        "%": "percent",
        "text": "unit or word",
        "mbox": "unit or word",
    }
    for sign, kind in signs.items():
        if (sign in gold) != (sign in other):
            return kind
    return "label" if ("=" in gold) != ("=" in other) else "same value in another form"


def on_rollouts(data: Path, notes: dict[str, str]) -> tuple[dict[str, Any], list[list[str]]]:
    """Real responses graded by all graders; the disagreements with ``math/2``."""
    counts: Counter[str] = Counter()
    disagreements = []
    total = 0
    for path in sorted((data / "rollouts").glob("*.jsonl")):
        for place, row in enumerate(rows_of(path)):
            total += 1
            gold, response = row["answer"], row["response"]
            ours = grade_math(gold, response)
            counts[f"math:{ours.verdict}"] += 1
            theirs = {
                "math_verify_plain": math_verify_task(gold, response)[:2],
                "dapo_strict_box": _pair(grade_dapo_strict_box(gold, response)),
                "dapo": _pair(grade_dapo(gold, response)),
            }
            for name, (verdict, answer) in theirs.items():
                counts[f"{name}:{verdict}"] += 1
                if (verdict == Verdict.CORRECT) != (ours.verdict == Verdict.CORRECT):
                    key = f"{path.stem}/{place}/{name}"
                    why = notes.get(key, notes.get(f"{name}:{verdict}", ""))
                    disagreements.append(
                        [
                            path.stem,
                            place,
                            row["example_id"],
                            gold,
                            ours.verdict,
                            ours.answer,
                            name,
                            verdict,
                            answer,
                            why,
                        ]
                    )
    names = ("math_verify_plain", "dapo_strict_box", "dapo")
    summary: dict[str, Any] = {"responses": total, "verdicts": dict(sorted(counts.items()))}
    summary["disagreements"] = {name: sum(row[6] == name for row in disagreements) for name in names}
    return summary, disagreements


def _pair(grade: Any) -> tuple[str, str | None]:
    return grade.verdict.value, grade.answer


def rate(work: Callable[[], int], clock: Callable[[], float] = time.perf_counter) -> dict[str, float]:
    """Answers per second of ``clock``: median and range of repeats."""
    rates = []
    for _ in range(REPEATS):
        start = clock()
        number = work()
        rates.append(number / (clock() - start))
    return {"median": round(statistics.median(rates), 1), "low": round(min(rates), 1), "high": round(max(rates), 1)}


def throughput(data: Path, files: Files) -> dict[str, Any]:
    """Answers per wall second with two workers, and per processor second in this process alone.

    The first depends on what else the machine does (see ``load``), the second does not.
    """
    rollouts = [row for path in sorted((data / "rollouts").glob("*.jsonl")) for row in rows_of(path)]
    golds = [row["answer"] for name in ("math500", "olympiadbench") for row in files[name]]
    mixed = [(gold, _respelled(gold, other)) for gold, other in pairwise(golds)]
    kinds = {"rollouts": [(row["answer"], row["response"]) for row in rollouts], "mixed": mixed}
    kinds["algebra"] = [pair for pair in mixed if isinstance(begin(*pair, MathOptions()), str)]
    boxed = [(gold, begin(gold, text, MathOptions())) for gold, text in kinds["algebra"]]
    wall, processor = {}, {}
    load = os.getloadavg()[0]
    with MathGrader(workers=2) as grader:
        for name, pairs in kinds.items():
            wall[name] = rate(lambda pairs=pairs: _pooled(grader, pairs))
            processor[name] = rate(lambda pairs=pairs: _alone(pairs), time.process_time)
    with WorkerPool("extra_jax.answers.symbolic:verify", workers=2) as pool:
        wall["sympy"] = rate(lambda: _library(pool, boxed))
    processor["sympy"] = rate(lambda: len([symbolic.verify(*pair) for pair in boxed]), time.process_time)
    return {
        "answers": {name: len(pairs) for name, pairs in kinds.items()} | {"sympy": len(boxed)},
        "load": [round(load, 1), round(os.getloadavg()[0], 1)],
        "two_workers_per_wall_second": wall,
        "one_process_per_processor_second": processor,
        "algebra_to_sympy": round(processor["algebra"]["median"] / processor["sympy"]["median"], 1),
    }


def _respelled(gold: str, other: str) -> str:
    """A response with the gold written differently; where that is not possible, with another gold."""
    text = gold.strip("$").replace("\\frac{1}{2}", "0.5").replace("\\sqrt", "1\\sqrt").replace("+", "- -")
    return rf"So $\boxed{{{text if clean(text) != clean(gold) else other.strip('$')}}}$"


def _pooled(grader: MathGrader, pairs: list[tuple[str, str]]) -> int:
    return len(grader.grade([Problem("", "", gold) for gold, _ in pairs], [text for _, text in pairs]))


def _alone(pairs: list[tuple[str, str]]) -> int:
    return len([grade_math(gold, text) for gold, text in pairs])


def _library(pool: WorkerPool, pairs: list[tuple[str, str]]) -> int:
    return len([future.result() for future in [pool.submit(*pair) for pair in pairs]])


def write(path: Path, header: str, rows: Iterator[list[Any]] | list[list[Any]]) -> None:
    """One table."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(header.split())
        table.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    notes = json.loads((Path(__file__).parent / "judgements.json").read_text(encoding="utf-8"))
    files = golds_of(options.data)
    own, exceptions = against_itself(files, notes)
    cross, equal = against_each_other(files, notes)
    real, disagreements = on_rollouts(options.data, notes)
    summary = {
        "grader": NAME,
        "math_verify": version("math-verify"),
        "gold_against_itself": own,
        "gold_against_others": cross,
        "rollouts": real,
        "throughput_per_second": throughput(options.data, files),
    }
    write(options.out / "exceptions.csv", "file id gold verdict verdict_by_value reason judgement", exceptions)
    write(options.out / "cross.csv", "file gold answer judgement", equal)
    header = "file row problem gold math_verdict math_answer grader verdict answer judgement"
    write(options.out / "rollouts.csv", header, disagreements)
    (options.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
