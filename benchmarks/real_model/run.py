"""A real pretrained model of 0.5 B parameters (Qwen2.5): its text and numbers here and in ``transformers``.

Three parts, each in a process of its own so that its peak memory is its own; a part writes ``NAME.json`` to ``--out``,
and ``NAME.partial.json`` before it is done.

- ``reference``: ``transformers``, f32: greedy text of 20 problems of GSM8K's test split, and log-probabilities of
  reference solutions.
- ``ours``: the same through ``extra_jax.load``.
- ``compare``: both side by side, into ``texts.md`` and ``comparison.json``. Fails where they differ.

The GRPO steps are those of ``grpo.sh``.
"""

import argparse
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

PROBLEMS, SOLUTIONS = 20, 8
TEMPLATE = "{problem}\nPlease reason step by step, and put your final answer within \\boxed{{}}."
TOLERANCE = 1e-3  # nats


def rows(path: Path, count: int) -> list[dict[str, Any]]:
    with path.open() as file:
        return [json.loads(next(file)) for _ in range(count)]


def chat(row: dict[str, Any]) -> list[dict[str, str]]:
    return [{"role": "user", "content": TEMPLATE.format(problem=row["problem"])}]


class Stages:
    """Seconds, CPU seconds and memory (GB) of each stage of this process, and its results; saved after each."""

    def __init__(self, file: Path) -> None:
        self.rows: dict[str, dict[str, float]] = {}
        self.results: dict[str, Any] = {"stages": self.rows}
        self._file = file
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def done(self, name: str, **results: Any) -> None:
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        self.rows[name] = {
            "seconds": round(time.perf_counter() - self._wall, 1),
            "cpu_seconds": round(time.process_time() - self._cpu, 1),
            "resident_gb": round(resident / 1e9, 2),
            "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2),
        }
        self.results |= results
        self._file.write_text(json.dumps(self.results) + "\n")
        print(name, self.rows[name], file=sys.stderr, flush=True)
        self._wall, self._cpu = time.perf_counter(), time.process_time()


def reference(model: Path, test: Path, train: Path, length: int, stages: Stages) -> dict[str, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    stages.done("imports")
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
    stages.done("load")
    logprobs = []
    with torch.no_grad():
        for row in rows(train, SOLUTIONS):
            prompt = tokenizer.apply_chat_template(chat(row), tokenize=False, add_generation_prompt=True)
            start = len(tokenizer(prompt, add_special_tokens=False).input_ids)
            ids = tokenizer(prompt + row["solution"], add_special_tokens=False, return_tensors="pt").input_ids
            table = policy(ids).logits[0, start - 1 : -1].log_softmax(-1)
            chosen = table.gather(-1, ids[0, start:, None])[:, 0]
            logprobs.append({"ids": ids[0].tolist(), "start": start, "logprobs": chosen.tolist()})
    stages.done("logprobs", logprobs=logprobs)
    prompts = [
        tokenizer.apply_chat_template(chat(row), tokenize=False, add_generation_prompt=True)
        for row in rows(test, PROBLEMS)
    ]
    batch = tokenizer(prompts, add_special_tokens=False, return_tensors="pt", padding=True)
    with torch.no_grad():
        out = policy.generate(**batch, do_sample=False, max_new_tokens=length, pad_token_id=tokenizer.pad_token_id)
    texts = [tokenizer.decode(row[batch.input_ids.shape[1] :], skip_special_tokens=True) for row in out]
    stages.done("greedy", texts=texts)
    return stages.results


def ours(model: Path, test: Path, train: Path, length: int, stages: Stages) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp
    from flax import nnx

    import extra_jax as ex

    stages.done("imports")
    settings = {"param_dtype": "bfloat16", "dtype": "float32"}  # the dtype of the file, computed in f32
    policy = ex.load(model, model=settings, rollout={"dtype": "float32", "slots": PROBLEMS})
    jax.block_until_ready(policy.params)
    stages.done("load")
    asked = [
        (policy.tokenizer.encode_prompt(chat(row)), policy.tokenizer.encode(row["solution"]))
        for row in rows(train, SOLUTIONS)
    ]
    width = max(len(prompt) + len(solution) for prompt, solution in asked)

    @jax.jit
    def score(params: nnx.State, ids: jax.Array) -> jax.Array:
        decoder = nnx.merge(policy.runtime.graphdef, params)
        positions = jnp.arange(width)[None]
        hidden, _ = decoder(ids, positions, segment_ids=jnp.ones_like(ids), dtype="float32")
        logprobs = jax.nn.log_softmax(decoder.logits(hidden[:, :-1]))
        return jnp.take_along_axis(logprobs, ids[:, 1:, None], -1)[0, :, 0]

    logprobs = []
    for prompt, solution in asked:
        ids = np.zeros((1, width), np.int32)
        ids[0, : len(prompt) + len(solution)] = prompt + solution
        values = np.asarray(score(policy.params, ids))[len(prompt) - 1 :][: len(solution)]
        logprobs.append({"ids": prompt + solution, "start": len(prompt), "logprobs": values.tolist()})
    stages.done("logprobs", logprobs=logprobs)
    problems = [chat(row) for row in rows(test, PROBLEMS)]
    completions = policy.generate(problems, temperature=0.0, max_completion_length=length)
    stages.done("greedy", texts=[texts[0] for texts in completions.texts], device=str(jax.devices()[0]))
    return stages.results


def compare(test: Path, out: Path) -> dict[str, Any]:
    """Writes both texts of every problem, and returns what agrees."""
    theirs, here = (json.loads((out / f"{name}.json").read_text()) for name in ("reference", "ours"))
    problems = rows(test, PROBLEMS)
    lines = ["# Greedy text of 20 problems of GSM8K: transformers, and extra_jax", ""]
    for row, expected, actual in zip(problems, theirs["texts"], here["texts"], strict=True):
        lines += [
            f"## {row['id']} (answer {row['answer']})",
            "",
            row["problem"],
            "",
            "```",
            expected.strip(),
            "```",
            "",
        ]
        same = "extra_jax: the same text" if actual == expected else f"extra_jax differs:\n\n```\n{actual.strip()}\n```"
        lines += [same, ""]
    (out / "texts.md").write_text("\n".join(lines))
    gaps = []
    for a, b in zip(theirs["logprobs"], here["logprobs"], strict=True):
        assert (a["ids"], a["start"]) == (b["ids"], b["start"])  # the two tokenizers agree
        gaps.append(np.abs(np.array(a["logprobs"]) - np.array(b["logprobs"])))
    return {
        "equal_texts": sum(a == b for a, b in zip(theirs["texts"], here["texts"], strict=True)),
        "problems": len(problems),
        "scored_tokens": int(sum(map(len, gaps))),
        "largest_logprob_gap": float(max(gap.max() for gap in gaps)),
        "mean_logprob_gap": float(np.concatenate(gaps).mean()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("reference", "ours", "compare"))
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face folder")
    parser.add_argument("--data", type=Path, required=True, help="folder with gsm8k_test.jsonl and gsm8k_train.jsonl")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--length", type=int, default=128, help="tokens of a completion at most")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    test, train = args.data / "gsm8k_test.jsonl", args.data / "gsm8k_train.jsonl"
    stages = Stages(args.out / f"{args.part}.partial.json")
    if args.part == "reference":
        result = reference(args.model, test, train, args.length, stages)
    elif args.part == "ours":
        result = ours(args.model, test, train, args.length, stages)
    else:
        result = compare(test, args.out)
        print(json.dumps(result, indent=1))
    name = "comparison" if args.part == "compare" else args.part
    (args.out / f"{name}.json").write_text(json.dumps(result) + "\n")
    failed = args.part == "compare" and (
        result["equal_texts"] < result["problems"] or result["largest_logprob_gap"] > TOLERANCE
    )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
