#!/usr/bin/env bash
# Installs what each command of README.md and docs/ installs, in an environment of its own each, and tries there what
# must work: every module is imported, a chat template is rendered, a run trains, a judge judges, each tracker tracks.
# The test environment has more packages than a user, and hides what is not declared.
set -euo pipefail
cd "$(dirname "$0")/.."
place=$(mktemp -d)
server=
trap 'test -z "$server" || kill "$server"; rm -rf "$place"' EXIT
export JAX_PLATFORMS=cpu HF_HUB_OFFLINE=1 WANDB_MODE=offline WANDB_DIR=$place TRACKIO_DIR=$place/trackio

environment() { # NAME: a new one
  python3 -m venv "$place/$1"
}
install() { # NAME, and what pip installs
  "$place/$1/bin/python" -m pip install -qq --no-compile --disable-pip-version-check "${@:2}"
}
imports() { # NAME, and the modules beyond which nothing is tried; all of them by default
  "$place/$1/bin/python" - "${@:2}" <<'PYTHON'
import importlib, sys
from pathlib import Path
from extra_jax.errors import ExtraError
files = Path("extra_jax").rglob("*.py")
names = sorted(".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in files)
wanted = [name for name in names if not sys.argv[1:] or f"{name}.".split(".")[1] in sys.argv[1:]]
wanted.remove("extra_jax.cli.__main__")  # is the command line itself
extras = []
for name in wanted:
    try:
        importlib.import_module(name)
    except ExtraError as error:  # says which extra it needs, and is wanted where that extra is installed
        if sys.argv[1:] or "extra-jax[" not in str(error):
            raise
        extras.append(name)
print(f"{len(wanted) - len(extras)} of {len(names)} modules imported; with an extra: {extras}")
PYTHON
}

echo "== pip install -e ."
environment base
install base --editable .
base=$place/base/bin
imports base
cp -r extra_jax/assets/tiny_base "$place/model"
echo '{% for m in messages %}{{ m.content }}{% endfor %}' > "$place/model/chat_template.jinja"
tiny=(data.limit=8 eval.data=null mesh.emulated_cpu_devices=1 train.max_steps=1 train.prompts_per_step=4
  train.num_generations=2 train.micro_batch_rows=8)
"$base/extra-jax" train configs/quickstart.yaml "${tiny[@]}" model.path="$place/model" run.dir="$place/run"
"$base/extra-jax" rollout configs/exprl_process.yaml out="$place/store" data.limit=4 train.prompts_per_step=4

echo "== pip install --no-deps -e . and what the extra judge lists: no jax"
environment judge
install judge --no-deps --editable .
mapfile -t judge < <(python3 -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']
print(*p['optional-dependencies']['judge'], sep='\n')")
install judge "${judge[@]}"
imports judge judge config errors files cli
"$base/python" scripts/judge_server.py --port 18765 > /dev/null &
server=$!
judged=("$place/store" endpoint=http://localhost:18765/v1 model=chain-judge rubric=process_prefix_v1)
"$place/judge/bin/extra-jax" judge "${judged[@]}"
"$place/judge/bin/extra-jax" calibrate "$place/store"

for tracker in tensorboard wandb trackio; do
  echo "== pip install -e . $tracker"
  environment $tracker
  (cd "$base/.." && echo "$PWD"/lib/python*/site-packages) > "$(echo "$place/$tracker"/lib/python*/site-packages)/base.pth"
  install $tracker $tracker
  "$place/$tracker/bin/python" -m extra_jax.cli train configs/quickstart.yaml "${tiny[@]}" run.dir="$place/run_$tracker" \
    logging.trackers=[$tracker]
done
