#!/usr/bin/env bash
# Two real benchmarks through the real Qwen3 tokenizer and chat template, with random weights: numbers near zero.
# usage: benchmarks/eval_smoke/run.sh DATA, a folder with qwen3/tokenizer/ and bench/{aime24,math500}.jsonl
set -euo pipefail
cd "$(dirname "$0")/../.."
python -m extra_jax.cli eval configs/math_smoke.yaml run.dir="$(mktemp -d)" bench=aime24,math500 n=4 \
  eval.dir="$1/bench" eval.benchmarks.aime24.limit=4 eval.benchmarks.math500.limit=8 \
  tokenizer.path="$1/qwen3/tokenizer" train.row_length=null rollout.max_prompt_length=1024 eval.max_completion_length=32 "${@:2}"
