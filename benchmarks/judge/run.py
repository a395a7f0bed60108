"""What the judge client costs itself: many requests against the embedded server, and segmentation in tokens a second.

python benchmarks/judge/run.py [--requests 10000] [--concurrency 64]
"""

import argparse
import json
import platform
import random
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np

from extra_jax.config import JudgeConfig, SegmentConfig
from extra_jax.data.tasks import chain
from extra_jax.judge import run, store
from extra_jax.judge.segment import Segmenter, TokenBytes

HERE = Path(__file__).parent
POLICY = "0" * 16


def write_store(folder: str, requests: int) -> None:
    """``requests`` different rollouts of chain problems, in shards of a thousand."""
    problems = chain.generate(requests // 10, seed=0, split="train")
    groups = []
    for problem in problems:
        group = store.group_id(0, problem.uid, POLICY)
        texts = [f"{i}+{i}={2 * i}\n{problem.solution}" for i in range(10)]
        groups.append([_row(problem, group, i, text) for i, text in enumerate(texts)])
    for part in range(0, len(groups), 100):
        store.write_rollouts(folder, store.part_name(0, POLICY, part // 100), groups[part : part + 100])


def _row(problem: chain.Problem, group: str, sample: int, text: str) -> dict:
    common = {"group": group, "round": 0, "uid": problem.uid, "policy": POLICY, "source": "chain", "domain": ""}
    asked = {"problem": problem.prompt, "reference": problem.solution, "answer": problem.answer, "text": text}
    tokens = {name: [] for name in ("prompt_ids", "token_ids", "logprobs", "log_kept", "entropies")}
    ends = {"segment_tokens": [len(text)], "segment_chars": [len(text)]}
    end = {"stop_reason": "stop_token", "verdict": "correct"}
    return {"rollout_id": f"{group}/{sample}", "sample": sample, **common, **asked, **tokens, **ends, **end}


def measure_client(requests: int, concurrency: int, latency: float) -> dict:
    """One run of the verb; the server is a process of its own on the same machine."""
    server = [sys.executable, HERE.parents[1] / "scripts" / "judge_server.py", "--port", "0", "--latency", str(latency)]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(server, stdout=subprocess.PIPE, text=True) as process,
    ):
        write_store(folder, requests)
        config = JudgeConfig(endpoint=process.stdout.readline().strip(), model="chain-judge", concurrency=concurrency)
        cpu = time.process_time()
        tally = run.judge(folder, config)
        cpu = time.process_time() - cpu
        process.kill()
    assert tally.statuses == {"ok": requests}, tally
    return {
        "requests": requests,
        "concurrency": concurrency,
        "server latency, ms": latency * 1e3,
        "wall, s": round(tally.seconds, 2),
        "requests / s": round(requests / tally.seconds),
        "client CPU, ms / request": round(1e3 * cpu / requests, 3),
        "wall beyond the server's latency, ms / request": round(
            1e3 * (tally.seconds / requests - latency / concurrency), 3
        ),
    }


def measure_segments(tokens: int = 2_000_000, length: int = 4_000) -> dict:
    """Markdown-like traces over a vocabulary of 50,000 random pieces; whole traces, cut and mapped to tokens."""
    rng = random.Random(0)
    letters = [rng.choice("abcdefghij é中 ") for _ in range(400_000)]
    table = ["".join(letters[8 * i : 8 * i + rng.randint(1, 6)]).encode() for i in range(50_000)]
    table[:2] = [b"\n", b"### "]
    segmenter = Segmenter(SegmentConfig(), TokenBytes(table))
    ids = np.random.default_rng(0).integers(2, len(table), (tokens // length, length))
    ids[:, ::500], ids[:, 1::500] = 0, 1
    began = time.perf_counter()
    found = [len(segmenter.cut(row)) for row in ids]
    seconds = time.perf_counter() - began
    return {"tokens": tokens, "segments": sum(found), "tokens / s": round(tokens / seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--concurrency", type=int, default=64)
    args = parser.parse_args()
    result = {
        "date": str(date.today()),
        "python": platform.python_version(),
        "client": [measure_client(args.requests, args.concurrency, latency) for latency in (0.0, 0.2)],
        "segments": measure_segments(),
    }
    text = json.dumps(result, indent=2)
    (HERE / "results.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
