"""Whose code should compare answers? ``extra_jax.answers`` against math-verify alone, on constructed answers.

    python benchmarks/grading/whose.py [--data ../shared/data] [--golds 200] [--out benchmarks/grading/whose.json]

From every gold that is no integer (evenly spaced over MATH-500, OlympiadBench, Minerva and Omni-MATH) answers are made
whose verdict is known by construction: other spellings of the same thing, near misses, and hedges between the gold and
a near miss. math-verify is given the same box as ``answers.verify``, and ten seconds a pair.
"""

import argparse
import json
import re
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Any

from extra_jax.answers import symbolic
from extra_jax.answers.verdict import Verdict
from extra_jax.answers.verify import verify

SETS = {
    "math500": "bench/math500.jsonl",
    "olympiadbench": "bench/olympiadbench.jsonl",
    "minerva": "bench/minerva.jsonl",
    "omni_math": "train/omni_math_rule.jsonl",
}
SECONDS = 10
_INTEGER = re.compile(r"\$?-?\d[\d,]*\$?")
_FRACTION = re.compile(r"(-?)\\frac\{(\d+)\}\{(\d+)\}")
_VALUE = re.compile(r"(?:[\d.+\-*/^{}() ]|\\frac|\\sqrt|\\pi|\\cdot)+")


def parts_of(text: str) -> list[str]:
    """``text`` cut at the commas outside all brackets."""
    parts, depth = [""], 0
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts]


def listed(gold: str) -> tuple[str, list[str], str] | None:
    """Opening, items and closing of a set or a bare list; ``None`` for everything else."""
    braces = re.fullmatch(r"\\\{(.*)\\\}", gold)
    items = parts_of(braces[1] if braces else gold)
    plain = all(re.fullmatch(r"[^\\,]*|(?:[^\\]|\\(?:frac|sqrt|pi))*", item) and "text" not in item for item in items)
    if len(items) < 2 or not plain or "=" in gold or any(mark in gold for mark in ("\\cup", "\\in", "<", ">", "\\l")):
        return None
    return ("\\{", items, "\\}") if braces else ("", items, "")


def equivalents(gold: str) -> Iterator[tuple[str, str]]:
    """Other spellings of ``gold``: the name of the rule and the text."""
    yield "as it is", gold
    yield "dollars and a full stop", f"${gold}$."
    yield "displaystyle", rf"\displaystyle {gold}"
    if "\\frac{" in gold:
        yield "dfrac", gold.replace("\\frac{", "\\dfrac{")
        yield "tfrac", gold.replace("\\frac{", "\\tfrac{")
    if "\\left" in gold:
        yield "without left and right", re.sub(r"\\(?:left|right)(?![a-z])", "", gold)
    elif "(" in gold and gold.count("(") == gold.count(")") and "[" not in gold and "]" not in gold:
        yield "with left and right", gold.replace("(", r"\left(").replace(")", r"\right)")
    if not any(mark in gold for mark in ("text", "mbox", "\\!")):
        yield "thin spaces", re.sub(r"(?<=[\w})])([+,])(?=[\w\\({])", r"\\,\1\\; ", gold)
        yield "unicode", gold.replace("-", "−").replace("\\pi", "π").replace("\\le ", "≤").replace("\\infty", "∞")
    if match := _FRACTION.fullmatch(gold):
        value = Fraction(int(match[2]), int(match[3]))
        yield "slash", f"{match[1]}{match[2]}/{match[3]}"
        yield "not reduced", rf"{match[1]}\frac{{{3 * int(match[2])}}}{{{3 * int(match[3])}}}"
        if 10**6 % value.denominator == 0:
            yield "decimal", f"{match[1]}{format(float(value), '.6f').rstrip('0').rstrip('.')}"
        yield "label", f"x = {gold}"
    elif _VALUE.fullmatch(gold):
        yield "label", f"x = {gold}"
        yield "in words", rf"\text{{The answer is }} {gold}"
        yield "unit", rf"{gold} \text{{ cm}}"
    if re.fullmatch(r"-?\d+\s*\^\s*\{?\\circ\}?", gold):
        yield "degrees as a word", re.sub(r"\s*\^\s*\{?\\circ\}?", r"\\text{ degrees}", gold)
        yield "degree sign", re.sub(r"\s*\^\s*\{?\\circ\}?", "°", gold)
    if found := listed(gold):
        opening, items, closing = found
        yield "another order", opening + ", ".join(reversed(items)) + closing
        if not opening:
            yield "joined by and", r" \text{ and } ".join(items)
            yield "as a set", r"\{" + ", ".join(items) + r"\}"
    if match := re.fullmatch(r"([^\\=<>,+\-]+)\+([^\\=<>,+\-]+)", gold):
        yield "exchanged summands", f"{match[2].strip()}+{match[1].strip()}"
    if re.fullmatch(r"[(\[][^,]+,[^,]+[)\]]", gold) and (gold[0] == "[" or gold[-1] == "]"):
        yield "membership", rf"x \in {gold}"
    if "\\sqrt{" in gold and re.fullmatch(r"(?:\d*\\sqrt\{\d+\})", gold):
        yield "half power", re.sub(r"\\sqrt\{(\d+)\}", r"\\cdot \1^{1/2}", gold).removeprefix(r"\cdot ")


def near_misses(gold: str) -> Iterator[tuple[str, str]]:
    """Texts that say something else than ``gold``."""
    numbers = [
        match for match in re.finditer(r"(?<![\d._])\d+(?![\d.])", gold) if not gold[: match.start()].endswith("_{")
    ]
    if numbers and "text" not in gold and "binom" not in gold:
        first, last = numbers[0], numbers[-1]
        yield "off by one", f"{gold[: last.start()]}{int(last.group()) + 1}{gold[last.end() :]}"
        yield "another number", f"{gold[: first.start()]}{int(first.group()) + 12}{gold[first.end() :]}"
    value = gold.strip("$ ")
    if _VALUE.fullmatch(value) and re.search(r"[1-9]|pi", value):
        yield "sign", value[1:] if value.startswith("-") and not re.search(r"[+\-]", value[1:]) else f"-({value})"
        yield "one more", f"{value}+1"
    if (match := _FRACTION.fullmatch(value)) and match[2] != match[3]:
        yield "upside down", rf"{match[1]}\frac{{{match[3]}}}{{{match[2]}}}"
        rounded = Fraction(round(100 * int(match[2]) / int(match[3])), 100)
        if rounded != Fraction(int(match[2]), int(match[3])):
            yield "rounded", f"{match[1]}{float(rounded)}"
    if found := listed(value):
        opening, items, closing = found
        yield "missing element", opening + ", ".join(items[:-1]) + closing
        if len(items[-1]) < 12:
            yield "additional element", opening + ", ".join([*items, "7919"]) + closing
    if re.fullmatch(r"[(\[][^,]+,[^,]+[)\]]", value) and (value[0] == "[" or value[-1] == "]"):
        other = {"[": "(", "(": "[", "]": ")", ")": "]"}
        if "infty" not in value.split(",")[1]:
            yield "another end", value[:-1] + other[value[-1]]
    if (match := re.fullmatch(r"\(([^,()]+),([^,()]+)\)", value)) and match[1].strip() != match[2].strip():
        yield "exchanged coordinates", f"({match[2].strip()}, {match[1].strip()})"
    if re.search(r"\\(?:le|ge)q?(?![a-z])", value):
        yield "strict", re.sub(r"\\leq?(?![a-z])", "<", re.sub(r"\\geq?(?![a-z])", ">", value))


def hedges(gold: str, other: str) -> Iterator[tuple[str, str]]:
    """Answers that leave open whether it is ``gold`` or ``other``."""
    yield "or", rf"{gold} \text{{ or }} {other}"
    yield "or, the other first", rf"{other} \text{{ or }} {gold}"
    yield "or maybe", rf"{gold} \text{{ or maybe }} {other}"
    yield "comma", f"{gold}, {other}"
    yield "otherwise", rf"{gold} \text{{ if }} p > 0, \text{{ otherwise }} {other}"
    yield "in parentheses", rf"{gold} \text{{ (or possibly }} {other} \text{{)}}"
    yield "not", rf"\text{{not }} {gold}"
    yield "two sides", f"{gold} = {other}"
    yield "unequal", rf"{gold} \ne {other}"
    yield "but not", rf"{gold} \text{{, but it could be }} {other}"


def pairs_of(gold: str) -> Iterator[tuple[str, str, str, str]]:
    """Kind, rule, gold and answer."""
    for rule, text in equivalents(gold):
        yield "equivalent", rule, gold, text
    misses = list(near_misses(gold))
    for rule, text in misses:
        yield "near miss", rule, gold, text
    if misses and misses[0][0] != "missing element":
        for rule, text in hedges(gold.strip("$ "), misses[0][1].strip("$ ")):
            yield "hedge", rule, gold, text


class Slow(Exception):
    """A pair took longer than ``SECONDS``."""


def _stop(*_: Any) -> None:
    raise Slow


def judged(grader: Callable[[str, str], str], gold: str, answer: str) -> str:
    """The verdict, ``timeout`` after ``SECONDS``, ``error`` for an exception."""
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        return grader(gold, answer)
    except Slow:
        return "timeout"
    except Exception:
        return "error"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def ours(gold: str, answer: str) -> str:
    """``answers.verify``."""
    return str(verify(gold, answer)[0])


def math_verify_alone(gold: str, answer: str) -> str:
    """math-verify with its own extraction of expressions and of strings, given both boxes."""
    library = symbolic.library()
    expected, got = (library.parse(rf"\boxed{{{text}}}", parsing_timeout=None) for text in (gold, answer))
    if not expected:
        return str(Verdict.GOLD_UNPARSEABLE)
    return str(Verdict.CORRECT if library.verify(expected, got, timeout_seconds=None) else Verdict.WRONG)


def golds_of(data: Path, most: int) -> dict[str, list[str]]:
    """Different golds that are no integers, evenly spaced, by set."""
    chosen = {}
    for name, path in SETS.items():
        rows = [json.loads(line) for line in (data / path).read_text(encoding="utf-8").splitlines()]
        golds = [gold for gold in dict.fromkeys(row["answer"] for row in rows) if not _INTEGER.fullmatch(gold)]
        step = max(1.0, len(golds) / most)
        chosen[name] = [golds[int(place * step)] for place in range(min(most, len(golds)))]
    return chosen


def measured(golds: dict[str, list[str]], graders: dict[str, Callable[[str, str], str]]) -> dict[str, Any]:
    """Mistakes by grader, set, kind and rule, and processor seconds for 1,000 answers."""
    signal.signal(signal.SIGALRM, _stop)
    totals: dict[str, Counter[str]] = {name: Counter() for name in golds}
    rules: Counter[str] = Counter()
    results: dict[str, Any] = {}
    pairs = [(name, *pair) for name, some in golds.items() for gold in some for pair in pairs_of(gold)]
    for name, kind, rule, _, _ in pairs:
        totals[name][kind] += 1
        rules[f"{kind}: {rule}"] += 1
    for title, grader in graders.items():
        mistakes: dict[str, Counter[str]] = defaultdict(Counter)
        by_rule: Counter[str] = Counter()
        unjudged: Counter[str] = Counter()
        shown: list[list[str]] = []
        grader(r"\frac{1}{2}", "0.5")
        started = time.process_time()
        for name, kind, rule, gold, answer in pairs:
            verdict = judged(grader, gold, answer)
            if verdict in ("timeout", "error", "gold_unparseable"):
                unjudged[verdict] += 1
            if (verdict == "correct") != (kind == "equivalent"):
                mistakes[name][kind] += 1
                by_rule[f"{kind}: {rule}"] += 1
                shown.append([name, kind, rule, gold, answer, verdict])
        seconds = time.process_time() - started
        results[title] = {
            "mistakes": {name: dict(counts) for name, counts in mistakes.items()},
            "mistakes_by_rule": dict(by_rule.most_common()),
            "without_verdict": dict(unjudged),
            "processor_seconds_per_1000": round(1000 * seconds / len(pairs), 2),
            "examples": shown,
        }
    return {"golds": {n: len(g) for n, g in golds.items()}, "pairs": totals, "rules": rules, "graders": results}


def main() -> None:
    """Runs both and writes the table."""
    place = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=place.parents[2] / "shared" / "data")
    parser.add_argument("--golds", type=int, default=200, help="golds of each set")
    parser.add_argument("--out", type=Path, default=place / "whose.json")
    parser.add_argument("--only", default="", help="only this grader; prints its mistakes and writes nothing")
    options = parser.parse_args()
    graders = {"extra_jax.answers": ours, f"math-verify {version('math-verify')}": math_verify_alone}
    if options.only:
        graders = {name: grader for name, grader in graders.items() if options.only in name}
    result = measured(golds_of(options.data, options.golds), graders)
    if options.only:
        for grade in result["graders"].values():
            print(*(json.dumps(row, ensure_ascii=False) for row in grade["examples"]), sep="\n")
    for grade in result["graders"].values():
        grade["examples"] = grade["examples"][:: max(1, len(grade["examples"]) // 20)][:20]
    if not options.only:
        options.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps({k: v for k, v in result.items() if k != "graders"}, indent=1))
    for title, grade in result["graders"].items():
        print(title, json.dumps({key: value for key, value in grade.items() if key != "examples"}, indent=1))


if __name__ == "__main__":
    main()
