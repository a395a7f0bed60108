#!/usr/bin/env bash
# ExpRL from end to end on two cores: rollouts out, scores in, calibration, training on the stored scores, then rounds that
# ask the judge themselves. The judge is a program (scripts/judge_server.py); no model is downloaded.
# Makes the virtual environment of scripts/quickstart.sh where there is none, and leaves everything in runs/exprl_demo.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ ! -x .venv/bin/extra-jax ] || ! .venv/bin/python -c 'import openai, pyarrow' 2> /dev/null; then
  echo "installing into .venv, 1.2 GB, which takes minutes ..."
  [ -d .venv ] || python3 -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[judge]'
fi
PATH=$PWD/.venv/bin:$PATH
out=${OUT:-runs/exprl_demo}
port=${PORT:-8000}
python scripts/judge_server.py --port "$port" --noise 0.1 > /dev/null &
server=$!
trap 'kill $server 2> /dev/null || true' EXIT
judge=(endpoint="http://localhost:$port/v1" model=chain-judge rubric=process_prefix_v1)

extra-jax rollout configs/exprl_process.yaml out="$out/store" data.limit=96
extra-jax judge "$out/store" "${judge[@]}"
extra-jax judge "$out/store" "${judge[@]}" condition=noref
extra-jax judge "$out/store" "${judge[@]}" condition=wrongref
extra-jax calibrate "$out/store"
extra-jax train configs/exprl_process.yaml reward=judge exprl.store="$out/store" run.dir="$out/stored" \
  train.max_steps=3 eval.data=null
extra-jax exprl configs/exprl_process.yaml judge.endpoint="http://localhost:$port/v1" run.dir="$out/rounds" \
  train.max_steps=10 eval.num_generations=8
cat << END

What this was: $out/store holds 768 solutions and what a judge said of them with the reference, without one and with a
wrong one. Two trainings learned from such scores: 3 steps from the stored ones, 10 steps in rounds of their own.
  how well the judge orders solutions   $out/store/calibration.html
  how the second training went          $out/rounds/report.html
  traces with scores and replies        extra-jax view $out/stored $out/rounds   (source .venv/bin/activate)
END
