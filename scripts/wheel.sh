#!/usr/bin/env bash
# Builds the wheel and the source archive, installs the wheel in an environment of its own, and trains a step with it from a
# folder that is not the repository.
set -euo pipefail
cd "$(dirname "$0")/.."
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/build"
"$place/build/bin/python" -m pip install -qq --disable-pip-version-check build
"$place/build/bin/python" -m build --outdir "$place/dist" . > /dev/null
ls "$place/dist"
python3 -m venv "$place/wheel"
"$place/wheel/bin/python" -m pip install -qq --no-compile --disable-pip-version-check "$place"/dist/*.whl
cp configs/quickstart.yaml "$place"
cd "$place"
export JAX_PLATFORMS=cpu
wheel/bin/extra-jax --version
wheel/bin/extra-jax train quickstart.yaml data.limit=8 eval.data=null mesh.emulated_cpu_devices=1 train.max_steps=1 \
  train.prompts_per_step=4 train.num_generations=2 train.micro_batch_rows=8 run.dir=run 2>&1 | tee log
test -f run/export/model.safetensors
if grep -F '[transformers]' log; then
  echo 'a warning of another library' >&2
  exit 1
fi
test -f run/report.html
