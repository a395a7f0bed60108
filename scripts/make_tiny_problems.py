"""Writes the problems that the small base model is trained on: countdown and chain, with solutions, as JSONL."""

import argparse
import json
import random

from extra_jax.data.sources import load_problems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", help="JSONL file to write")
    parser.add_argument("--count", type=int, default=20000, help="problems of each task")
    args = parser.parse_args()
    problems = [p for task in ("countdown", "chain") for p in load_problems(task, limit=args.count, seed=1)]
    random.Random(0).shuffle(problems)
    with open(args.out, "w", encoding="utf-8") as file:
        for p in problems:
            row = {"uid": p.uid, "prompt": p.prompt, "answer": p.answer, "solution": p.solution}
            row |= {"source": p.source, "meta": dict(p.meta)}
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
