#!/usr/bin/env bash
# The quickstart on three seeds, then the table of this folder. Continues where it was stopped.
set -euo pipefail
cd "$(dirname "$0")/../.."
for seed in 0 1 2; do
  extra-jax train configs/quickstart.yaml run.seed=$seed run.dir=runs/quickstart_seed$seed
done
python benchmarks/quickstart/collect.py runs/quickstart_seed0 runs/quickstart_seed1 runs/quickstart_seed2
