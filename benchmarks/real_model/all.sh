#!/usr/bin/env bash
# Everything that is measured on the real model, one process after the other; what is finished already is not run again,
# so the same command continues after an interruption.
# Usage: all.sh MODEL_FOLDER DATA_FOLDER OUT_FOLDER [TOKENS]. Takes 13 GB of memory and about 1,200 CPU seconds.
set -euo pipefail
model=$1 data=$2 out=$3 tokens=${4:-96}
root=$(cd "$(dirname "$0")/../.." && pwd)
export PYTHON=${PYTHON:-python} PYTHONPATH=$root JAX_PLATFORMS=cpu
mkdir -p "$out"
for part in reference ours; do
  [ -f "$out/$part.json" ] || "$PYTHON" "$root/benchmarks/real_model/run.py" "$part" \
    --model "$model" --data "$data" --out "$out" --length "$tokens"
done
"$PYTHON" "$root/benchmarks/real_model/run.py" compare --model "$model" --data "$data" --out "$out"
[ -f "$out/grpo.txt" ] || {
  /usr/bin/env time -f "%e s, %U s of CPU, %M KB at most" -o "$out/grpo.time" \
    bash "$root/benchmarks/real_model/grpo.sh" "$model" "$data" "$out/run" 2> >(tee "$out/grpo.err" >&2) | tee "$out/grpo.part"
  mv "$out/grpo.part" "$out/grpo.txt"
}
"$PYTHON" - "$out/run/metrics.jsonl" <<'PY'
import json, sys
rows = [json.loads(line) for line in open(sys.argv[1])]
steps = [row for row in rows if "reward" in row]
for row in steps:
    kept = ("reward", "pass_rate", "sampling", "timing_s", "step_time", "entropy", "loss", "grad_norm")
    print(json.dumps({"step": row["step"]} | {k: v for k, v in row.items() if k.startswith(kept)}))
# a wrong answer is worth 0
assert any(row["reward"] for row in steps), "no completion was right"
PY
