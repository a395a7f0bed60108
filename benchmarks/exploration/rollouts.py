"""Cuts, leaks and novelty distances on the 1,280 rollouts that the authors of ExTra published.

Needs their two files (fields example_id, answer, response), the Qwen3 tokenizer, and all-MiniLM-L6-v2; about ten
minutes on two idle cores, nearly all of it MiniLM. Writes rollouts.json (summary), rollouts.csv (a row per rollout)
and rollouts.svg beside this file; without files it only draws.
"""

import argparse
import csv
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from lab.lexical import jaccard_similarities, ngram_codes
from scipy.stats import spearmanr

from extra_jax.data.problem import Problem
from extra_jax.data.tokenizer import Tokenizer, load_tokenizer
from extra_jax.explore.attempts import leaks, newline_table
from extra_jax.explore.distance import aggregate, allowed_pool, cosine_similarities, normalise
from extra_jax.explore.encoders import EncoderSettings, HashedNgramEncoder, completion_text
from extra_jax.explore.prefix_settings import CutRules
from extra_jax.model.minilm import MiniLMEncoder
from extra_jax.reward.verdict import Verdict
from extra_jax.reward.workers import MathGrader
from extra_jax.telemetry import charts

HERE = Path(__file__).parent
SHORT = {
    "minilm truncate": "minilm, cut",
    "minilm chunk_mean": "minilm",
    "hashed_ngram": "hashed",
    "bigram jaccard": "bigrams",
}
NAMES = list(SHORT)
RULES = {"release": "release", "corrected": "corrected", "without its limit": "corrected, to the end"}
GROUP = 6  # the authors' group size; the 16 samples of a problem give two groups
RELEASE = CutRules(cut="as_released", min_tokens=0, max_fraction=None, stop_at=())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="JSONL with example_id, answer, response")
    parser.add_argument("--tokenizer", type=Path, help="folder of the Qwen3 tokenizer")
    parser.add_argument("--minilm", type=Path, help="folder of all-MiniLM-L6-v2")
    args = parser.parse_args()
    if args.files:
        measure(args)
    draw()


def measure(args: argparse.Namespace) -> None:
    tokenizer = load_tokenizer(args.tokenizer)
    rows = [row | {"file": file.stem} for file in args.files for row in map(json.loads, file.read_text().splitlines())]
    for row in rows:
        row["ids"] = np.array(tokenizer.encode(row["response"]))
    grade(rows)
    summary = {"rollouts": len(rows), "correct": float(np.mean([row["correct"] for row in rows]))}
    summary["cuts"] = cut_statistics(rows, tokenizer)
    vectors, seconds = encoded(rows, tokenizer, args.minilm)
    summary["encoder_seconds"] = seconds
    summary["novelty"] = novelty_statistics(rows, vectors)
    (HERE / "rollouts.json").write_text(json.dumps(summary, indent=1) + "\n")
    write_rows(rows)


def grade(rows: list[dict[str, Any]]) -> None:
    grader = MathGrader()
    problems = [Problem(f"{row['file']}/{row['example_id']}", row["prompt"], str(row["answer"])) for row in rows]
    for row, found in zip(rows, grader.grade(problems, [row["response"] for row in rows]), strict=True):
        row["correct"] = found.verdict is Verdict.CORRECT
    grader.close()


def cut_statistics(rows: list[dict[str, Any]], tokenizer: Tokenizer) -> dict[str, Any]:
    """Newline tokens caught, prefixes per rollout and how many of them hold the answer already."""
    every, exact = newline_table(tokenizer, "contains_newline"), newline_table(tokenizer, "as_released")
    newlines = sum(int(every[row["ids"]].sum()) for row in rows)
    rules = {
        "release": (RELEASE, exact),
        "release, any token with a newline": (RELEASE, every),
        "corrected": (CutRules(), every),
        "corrected, to the end": (CutRules(max_fraction=None), every),
        "corrected, to the end, behind the answer too": (CutRules(max_fraction=None, stop_at=()), every),
    }
    found: dict[str, Any] = {
        "vocabulary_with_newline": int(every.sum()),
        "vocabulary_exact": int(exact.sum()),
        "newline_tokens": newlines,
        "newline_tokens_exact_share": sum(int(exact[row["ids"]].sum()) for row in rows) / newlines,
        "mean_tokens": float(np.mean([len(row["ids"]) for row in rows])),
    }
    for name, (config, table) in rules.items():
        counts, fractions, leaked, boxed, long = [], [], [], [], []
        for row in rows:
            cuts = config.lengths(row["ids"], table)
            texts = [tokenizer.decode(row["ids"][:cut].tolist()) for cut in cuts]
            kept = [
                (cut, text)
                for cut, text in zip(cuts, texts, strict=True)
                if not any(stop in text for stop in config.stop_at)
            ]
            counts.append(len(kept))
            fractions += [cut / len(row["ids"]) for cut, _ in kept]
            leaked += [leaks(text, str(row["answer"])) for _, text in kept]
            boxed += ["\\boxed" in text for _, text in kept]
            long += [cut > 256 for cut, _ in kept]
        found[name] = {
            "prefixes_per_rollout": float(np.mean(counts)),
            "rollouts_without": float(np.mean(np.array(counts) == 0)),
            "mean_fraction": float(np.mean(fractions)),
            "leak_share": float(np.mean(leaked)),
            "behind_boxed_share": float(np.mean(boxed)),
            "longer_than_256_tokens": float(np.mean(long)),
            "fractions": np.histogram(fractions, np.linspace(0, 1, 21))[0].tolist(),
        }
    return found


def encoded(
    rows: list[dict[str, Any]], tokenizer: Tokenizer, folder: Path
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Vectors of the last 512 tokens by encoder, and seconds it took."""
    texts = [completion_text(row["ids"], tokenizer, "last") for row in rows]
    encoders = {
        "hashed_ngram": HashedNgramEncoder(EncoderSettings().size),
        "minilm truncate": MiniLMEncoder(folder, truncate=True),
        "minilm chunk_mean": MiniLMEncoder(folder, truncate=False),
    }
    vectors, seconds = {}, {}
    for name, encoder in encoders.items():
        began = time.perf_counter()
        vectors[name] = encoder.encode(texts)
        seconds[name] = time.perf_counter() - began
        if encoder.truncated:
            seconds[f"{name}, share of texts truncated"] = encoder.truncated / len(texts)
        print(f"{name}: {seconds[name]:.0f} s", flush=True)
    return vectors, seconds


def novelty_statistics(rows: list[dict[str, Any]], vectors: dict[str, np.ndarray]) -> dict[str, Any]:
    """Nearest-neighbour distances inside groups of six, and how they go with length and with shared bigrams."""
    groups = groups_of_six(rows)
    members = np.concatenate(groups)
    correct = np.array([row["correct"] for row in rows])
    lengths = np.array([len(row["ids"]) for row in rows], float)
    codes = [np.unique(ngram_codes(row["ids"][-512:], 2)) for row in rows]
    within = {name: nearest_in_groups(groups, v) for name, v in vectors.items()}
    within["bigram jaccard"] = jaccard_in_groups(groups, codes)
    found: dict[str, Any] = {"groups": len(groups)}
    for name, d in within.items():
        for row, value in zip(members, d.ravel(), strict=True):
            rows[row][name] = float(value)
        right = correct[members].reshape(d.shape)
        solved = right.all(axis=1)
        found[name] = {
            "mean": float(d.mean()),
            "std": float(d.std()),
            "mean_correct": float(d[right].mean()),
            "mean_wrong": float(d[~right].mean()),
            "within_group_std": float(np.sqrt(d.var(axis=1, ddof=1).mean())),
            "within_group_std_all_correct": float(np.sqrt(d[solved].var(axis=1, ddof=1).mean())),
            "between_group_std": float(d.mean(axis=1).std(ddof=1)),
            "share_similar_above_0.95": float((d < 0.05).mean()),
            "spearman_length": float(spearmanr(d.ravel(), lengths[members]).statistic),
            "spearman_length_within": within_group_spearman(d, lengths[members].reshape(d.shape)),
            "spearman_lexical_within": within_group_spearman(d, within["bigram jaccard"]),
        }
        if name in vectors:
            found[name]["between_problems_mean"] = between_problems(rows, vectors[name])
    found["spearman_truncate_chunk_within"] = within_group_spearman(
        within["minilm truncate"], within["minilm chunk_mean"]
    )
    return found


def groups_of_six(rows: list[dict[str, Any]]) -> list[np.ndarray]:
    by_problem: dict[tuple[str, int], list[int]] = {}
    for index, row in enumerate(rows):
        by_problem.setdefault((row["file"], row["example_id"]), []).append(index)
    return [
        np.array(i[start : start + GROUP]) for i in by_problem.values() for start in range(0, len(i) - GROUP + 1, GROUP)
    ]


def nearest_in_groups(groups: list[np.ndarray], vectors: np.ndarray) -> np.ndarray:
    """``[groups, 6]`` distance of each rollout from its nearest sibling."""
    stacked = normalise(np.stack([vectors[group] for group in groups]))
    everybody = np.ones(stacked.shape[:2], bool)
    allowed = allowed_pool(everybody[:, :0], everybody, pool="siblings")
    return aggregate(cosine_similarities(stacked, stacked[:, :0]), allowed, "nn")


def jaccard_in_groups(groups: list[np.ndarray], codes: list[np.ndarray]) -> np.ndarray:
    rows = []
    for group in groups:
        similar = jaccard_similarities([codes[i] for i in group], [codes[i] for i in group])
        np.fill_diagonal(similar, -np.inf)
        rows.append(1.0 - similar.max(axis=1))
    return np.array(rows)


def between_problems(rows: list[dict[str, Any]], vectors: np.ndarray) -> float:
    """Mean cosine distance of rollouts of different problems."""
    problem = np.array([row["example_id"] for row in rows])
    chosen = np.random.default_rng(0).integers(0, len(rows), (20_000, 2))
    chosen = chosen[problem[chosen[:, 0]] != problem[chosen[:, 1]]]
    return float(1.0 - np.mean(np.sum(vectors[chosen[:, 0]] * vectors[chosen[:, 1]], axis=1)))


def within_group_spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over groups of the rank correlation inside a group."""
    usable = (np.ptp(a, axis=1) > 0) & (np.ptp(b, axis=1) > 0)
    return float(np.mean([spearmanr(x, y).statistic for x, y in zip(a[usable], b[usable], strict=True)]))


def write_rows(rows: list[dict[str, Any]]) -> None:
    with (HERE / "rollouts.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "example_id", "correct", "tokens", *NAMES])
        for row in rows:
            shown = [f"{row[name]:.4f}" if name in row else "" for name in NAMES]
            writer.writerow([row["file"], row["example_id"], int(row["correct"]), len(row["ids"]), *shown])


def draw() -> None:
    summary = json.loads((HERE / "rollouts.json").read_text())
    with (HERE / "rollouts.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row[NAMES[0]]]
    values = {name: 100 * np.array([float(row[name]) for row in rows]) for name in NAMES}
    tokens = np.array([int(row["tokens"]) for row in rows])
    deciles = np.quantile(tokens, np.linspace(0, 1, 11))
    bins = np.clip(np.searchsorted(deciles, tokens, side="right") - 1, 0, 9)
    cuts = {label: np.array(summary["cuts"][rule]["fractions"]) / summary["rollouts"] for label, rule in RULES.items()}
    middles = [float(np.median(tokens[bins == b])) for b in range(10)]
    positions = np.linspace(2.5, 97.5, 20).tolist()
    edges = np.linspace(0, 100, 41)
    shares = {name: np.histogram(v, edges)[0] / max(len(v), 1) for name, v in values.items()}
    centres = ((edges[1:] + edges[:-1]) / 2).tolist()
    distances = [charts.Line(SHORT[n], centres, v.tolist(), c, exact=True) for c, (n, v) in enumerate(shares.items())]
    by_length = [
        charts.Line(SHORT[name], middles, [float(v[bins == b].mean()) for b in range(10)], color, exact=True)
        for color, (name, v) in enumerate(values.items())
    ]
    by_place = [
        charts.Line(label, positions, v.tolist(), color, exact=True) for color, (label, v) in enumerate(cuts.items())
    ]
    charts.save(
        HERE / "rollouts.svg",
        charts.line_chart(distances, x="100 x distance", unit="share").titled("Distance to the nearest of 5 siblings"),
        charts.line_chart(by_length, x="tokens of the rollout").titled("100 x mean distance, by length"),
        charts.line_chart(by_place, x="position, % of the rollout").titled("Cuts of a rollout, by position"),
    )


if __name__ == "__main__":
    main()
