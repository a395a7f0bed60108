"""Do `data lint` and `data contamination` find what an independent report found? Writes results.json beside this file.

usage: python benchmarks/data_checks/run.py DATA, a folder with contamination.json, train/ and bench/
"""

import json
import sys
from pathlib import Path
from typing import Any

from extra_jax.data.contamination import contamination
from extra_jax.data.lint import lint
from extra_jax.data.problem import Problem
from extra_jax.data.sources import load_problems

HERE = Path(__file__).parent


def main() -> None:
    data = Path(sys.argv[1])
    report = json.loads((data / "contamination.json").read_text())
    sets = {name: load_problems(str(data / name)) for name in report["duplicates_inside"] if (data / name).is_file()}
    absent = sorted(report["duplicates_inside"].keys() - sets.keys())
    rows = [*duplicates(data, report, sets), *pairs(report, sets), *across(report, sets)]
    result = {
        "absent": absent,
        "reproduced": sum(r["found"] == r["report"] for r in rows),
        "of": len(rows),
        "rows": rows,
    }
    (HERE / "results.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"{result['reproduced']} of {result['of']} reproduced; not here: {', '.join(absent)}")
    for row in rows:
        if row["found"] != row["report"]:
            print(row)


def duplicates(data: Path, report: dict[str, Any], sets: dict[str, list[Problem]]) -> list[dict[str, Any]]:
    """Duplicates inside a file: groups, surplus rows, groups whose answers differ as text."""
    rows = []
    for name in sets:
        found = lint(str(data / name)).duplicates
        told = list(report["duplicates_inside"][name].values())
        rows.append(
            {"what": f"duplicates in {name}", "found": [found.groups, found.surplus, found.differing], "report": told}
        )
    return rows


def pairs(report: dict[str, Any], sets: dict[str, list[Problem]]) -> list[dict[str, Any]]:
    """Training against benchmarks: the four counts, and every single match with similarity and equality of answers."""
    keys = ("train_rows_exact", "bench_items_exact", "train_rows_near_only", "bench_items_near_only")
    told = {(s["train"], s["bench"]): [s[key] for key in keys] for s in report["summary"]}
    rows = []
    for train in (name for name in sets if name.startswith("train/")):
        flagged: dict[str, list[list[Any]]] = {}
        for bench in (name for name in sets if name.startswith("bench/")):
            matches = contamination(sets[train], sets[bench])
            exact = {m.row for m in matches if m.kind == "exact"}, {m.item for m in matches if m.kind == "exact"}
            near = {m.row for m in matches} - exact[0], {m.item for m in matches} - exact[1]
            counts = [len(exact[0]), len(exact[1]), len(near[0]), len(near[1])]
            rows.append(
                {"what": f"{train} in {bench}", "found": counts, "report": told.get((train, bench), [0, 0, 0, 0])}
            )
            for m in matches:
                hit = [sets[bench][m.item].uid, m.kind, round(m.jaccard, 3), m.same_answer]
                flagged.setdefault(sets[train][m.row].uid, []).append(hit)
        here = {problem.uid for name in sets for problem in sets[name]}
        expected = {uid: sorted(h for h in hits if h[0] in here) for uid, hits in report["drop"][train].items()}
        expected = {uid: hits for uid, hits in expected.items() if hits}
        same = {uid: sorted(hits) for uid, hits in flagged.items()} == expected
        rows.append({"what": f"every match of {train}", "found": [len(flagged), same], "report": [len(expected), True]})
    return rows


def across(report: dict[str, Any], sets: dict[str, list[Problem]]) -> list[dict[str, Any]]:
    """Exact copies between two files, as rows of the second."""
    rows = []
    for told in report["cross_exact"]:
        if told["a"] in sets and told["b"] in sets:
            matches = contamination(sets[told["b"]], sets[told["a"]])
            found = len({m.row for m in matches if m.kind == "exact"})
            rows.append({"what": f"rows of {told['b']} in {told['a']}", "found": found, "report": told["rows"]})
    return rows


if __name__ == "__main__":
    main()
