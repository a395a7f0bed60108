"""Stores of chain rollouts made by hand, and the embedded judge server as a process."""

import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from extra_jax.data.problem import Problem
from extra_jax.data.tasks import chain
from extra_jax.judge import store

SERVER = Path(__file__).parents[2] / "scripts" / "judge_server.py"
POLICY = "00112233aabbccdd"


def chain_text(problem: Problem, rng: random.Random) -> str:
    """The reference solution, cut short or with one wrong line in it as often as not."""
    lines = problem.solution.splitlines()
    lines = lines[: rng.randint(1, len(lines))]
    if rng.random() < 0.5:
        lines[rng.randrange(len(lines))] = "1+1=3"
    return "\n".join(lines) + "\n"


def rollout_row(problem: Problem, sample: int, text: str, *, round_: int = 0, policy: str = POLICY) -> dict:
    """A rollout whose tokens are its characters, a segment a line."""
    group = store.group_id(round_, problem.uid, policy)
    ends = [i + 1 for i, c in enumerate(text) if c == "\n"] or [len(text)]
    ends[-1] = len(text)
    correct = text.rstrip("\n").rpartition("=")[2] == problem.answer
    return {
        "rollout_id": f"{group}/{sample}",
        "group": group,
        "round": round_,
        "uid": problem.uid,
        "sample": sample,
        "policy": policy,
        "source": "chain",
        "domain": "",
        "problem": problem.prompt,
        "reference": problem.solution,
        "answer": problem.answer,
        "prompt_ids": [1, 2, 3],
        "token_ids": [ord(c) % 64 for c in text],
        "logprobs": np.full(len(text), -0.5, np.float32),
        "log_kept": np.zeros(len(text), np.float32),
        "entropies": np.full(len(text), 0.5, np.float32),
        "text": text,
        "text_sha": store.text_sha(text),
        "segment_tokens": ends,
        "segment_chars": ends,
        "stop_reason": "stop_token",
        "verdict": "correct" if correct else "wrong",
    }


def chain_store(folder: Path, prompts: int = 8, samples: int = 4, shards: int = 2, seed: int = 0) -> list[dict]:
    """Writes a store and returns its rows."""
    rng = random.Random(seed)
    problems = chain.generate(prompts, seed=seed, split="train")
    groups = [[rollout_row(p, i, chain_text(p, rng)) for i in range(samples)] for p in problems]
    for part in range(shards):
        store.write_rollouts(folder, store.part_name(0, POLICY, part), groups[part::shards])
    return [row for part in range(shards) for group in groups[part::shards] for row in group]


@contextmanager
def judge_server(*switches: str) -> Iterator[str]:
    """The server as a process; yields its URL."""
    command = [sys.executable, str(SERVER), "--port", "0", *switches]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()
