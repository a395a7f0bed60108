#!/usr/bin/env bash
# Makes the small base model of the package again: problems, SFT, export. About 15 minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p runs
python scripts/make_tiny_problems.py runs/tiny_problems.jsonl
extra-jax sft configs/tiny_base.yaml
cp runs/tiny_base/export/* extra_jax/assets/tiny_base/
