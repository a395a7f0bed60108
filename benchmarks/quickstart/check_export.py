"""Greedy completions of an export, by transformers and by us: they must be the same text. Needs torch."""

import argparse

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from extra_jax.config import load_config
from extra_jax.data.sources import load_problems
from extra_jax.sample import sample


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="finished run directory")
    parser.add_argument("--prompts", type=int, default=20)
    args = parser.parse_args()
    config = load_config(f"{args.run}/config.yaml", ["rollout.temperature=0", f"run.dir={args.run}"])
    prompts = [problem.prompt for problem in load_problems("countdown", split="test", seed=7, limit=args.prompts)]
    ours = [completion.text for completion in sample(config, prompts)]

    tokenizer = AutoTokenizer.from_pretrained(f"{args.run}/export")
    model = AutoModelForCausalLM.from_pretrained(f"{args.run}/export", dtype=torch.float32)
    length, same = config.rollout.max_completion_length, 0
    for prompt, text in zip(prompts, ours, strict=True):
        ids = torch.tensor([tokenizer.encode(prompt, add_special_tokens=False)])
        out = model.generate(ids, max_new_tokens=length, do_sample=False)[0, ids.shape[1] :]
        same += tokenizer.decode(out, skip_special_tokens=True) == text
    print(f"{same} of {len(prompts)} greedy completions are the same text")
    raise SystemExit(same != len(prompts))


if __name__ == "__main__":
    main()
