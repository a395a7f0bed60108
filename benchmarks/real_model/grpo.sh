#!/usr/bin/env bash
# GRPO steps of a real 0.5 B model on two CPU cores, with real problems and real rewards: the recipe
# configs/gsm8k_0_5b.yaml, smaller. A run that was stopped continues from its last checkpoint with the same command.
# Usage: [HELD_OUT=100] grpo.sh MODEL_FOLDER DATA_FOLDER RUN_DIR [KEY=VALUE ...]
#
# bfloat16 for weights and moments keeps the process small; training in earnest wants float32. The run of 20 steps:
#   HELD_OUT=100 grpo.sh MODEL DATA runs/real_20 train.max_steps=20 train.prompts_per_step=8 train.num_generations=8 \
#     checkpoint.every=1
set -euo pipefail
model=$1 data=$2 run=$3
shift 3
root=$(cd "$(dirname "$0")/../.." && pwd)
if [ "${HELD_OUT:-0}" -gt 0 ]; then
  held_out=(eval.data.source="$data/gsm8k_test.jsonl" eval.data.split=train eval.data.limit="$HELD_OUT" eval.every=0)
else
  held_out=(eval.data=null)
fi
PYTHONPATH=$root JAX_PLATFORMS=cpu exec "${PYTHON:-python}" -m extra_jax.cli train "$root/configs/gsm8k_0_5b.yaml" \
  run.dir="$run" model.path="$model" model.param_dtype=bfloat16 model.dtype=float32 \
  data.source="$data/gsm8k_train.jsonl" "${held_out[@]}" \
  rollout.dtype=float32 rollout.max_prompt_length=256 rollout.max_completion_length=320 \
  train.max_steps=2 train.prompts_per_step=4 train.num_generations=4 train.row_length=768 train.micro_batch_rows=1 \
  optim.warmup_steps=0 checkpoint.every=1000 "$@"
