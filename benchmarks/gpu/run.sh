#!/usr/bin/env bash
# One command, at most eight minutes, on a machine with a GPU: kernels, rollouts and updates, beside torch.
# Usage: run.sh OUT_FOLDER [--small]. Needs jax, flax, torch and transformers there; wheels of what else is missing
# (pydantic, pydantic_core, annotated_types, typing_inspection) may lie in .whl/ of the repository.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-python3}
export PYTHONPATH=$root PYTHONUNBUFFERED=1 XLA_PYTHON_CLIENT_MEM_FRACTION=0.85
if compgen -G "$root/.whl/*.whl" > /dev/null; then
  "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target /tmp/extra_jax_site "$root"/.whl/*.whl
  export PYTHONPATH=$root:/tmp/extra_jax_site
fi
exec "$python" "$root/benchmarks/gpu/run.py" --out "$@"
