#!/usr/bin/env bash
# ExpRL from end to end on two cores, in less than ten minutes: rollouts out, scores in, calibration, training on the
# stored scores, then rounds that ask the judge themselves. The judge is the embedded one; nothing is downloaded.
# Needs `pip install -e '.[judge]'`. Leaves everything in runs/exprl_demo.
set -euo pipefail
cd "$(dirname "$0")/.."
out=runs/exprl_demo
port=${PORT:-8000}
python scripts/judge_server.py --port "$port" --noise 0.1 > /dev/null &
server=$!
trap 'kill $server' EXIT
judge=(endpoint="http://localhost:$port/v1" model=chain-judge rubric=process_prefix_v1)

extra-jax rollout configs/exprl_process.yaml out=$out/store data.limit=96
extra-jax judge $out/store "${judge[@]}"
extra-jax judge $out/store "${judge[@]}" condition=noref
extra-jax judge $out/store "${judge[@]}" condition=wrongref
extra-jax calibrate $out/store
extra-jax train configs/exprl_process.yaml reward=judge exprl.store=$out/store run.dir=$out/stored \
  train.max_steps=3 eval.data=null
extra-jax exprl configs/exprl_process.yaml judge.endpoint="http://localhost:$port/v1" run.dir=$out/rounds \
  train.max_steps=10 eval.num_generations=8
