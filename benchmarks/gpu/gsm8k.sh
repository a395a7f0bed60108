#!/usr/bin/env bash
# As many GRPO steps of a real 0.5 B model on GSM8K as fit six minutes of a GPU: configs/gsm8k_0_5b.yaml as it is.
# Usage: gsm8k.sh MODEL_FOLDER DATA_FOLDER RUN_DIR [KEY=VALUE ...]. Needs the package's dependencies there (wheels of
# what is missing may lie in .whl/). SECONDS_ALLOWED=360 by default. Continue the run with the same command. The rehearsal on a CPU:
#   SECONDS_ALLOWED=3000 gsm8k.sh tiny-base - RUN_DIR data.source=countdown eval.data.source=countdown ...
set -euo pipefail
model=$1 data=$2 run=$3
shift 3
root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-python3}
export PYTHONPATH=$root PYTHONUNBUFFERED=1
if compgen -G "$root/.whl/*.whl" > /dev/null; then
  "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target /tmp/extra_jax_site "$root"/.whl/*.whl
  export PYTHONPATH=$root:/tmp/extra_jax_site
fi
status=0
# SIGTERM ends a run after its step, with a checkpoint.
timeout --kill-after=60 "${SECONDS_ALLOWED:-360}" "$python" -m extra_jax.cli train "$root/configs/gsm8k_0_5b.yaml" \
  run.dir="$run" model.path="$model" data.source="$data/gsm8k_train.jsonl" eval.data.source="$data/gsm8k_test.jsonl" eval.data.split=train \
  eval.every=0 checkpoint.every=1000000 "$@" || status=$?
tail -n 3 "$run/metrics.jsonl"
[ "$status" = 0 ] || [ "$status" = 124 ] || [ "$status" = 143 ] || exit "$status"
