#!/usr/bin/env bash
# Makes a virtual environment and runs the quickstart in it: GRPO on the small model of the package.
# Arguments are passed on, e.g. `scripts/quickstart.sh run.seed=1 run.dir=runs/seed1`.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ ! -x .venv/bin/extra-jax ]; then
  echo "installing into .venv, 1.2 GB, which takes minutes ..."
  python3 -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable .
fi
.venv/bin/extra-jax train configs/quickstart.yaml "$@"
