#!/usr/bin/env bash
# Cloud TPU VMs from creation to the end of a run. docs/start/pods.md walks through it.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: scripts/tpu_vm.sh COMMAND NAME --zone ZONE [options] [-- extra-jax arguments]

  create   makes the TPU VMs                     --type v5litepod-16 [--spot] [--queued] [--slices N] [--runtime VERSION]
                                                 [--service-account MAIL] [--reservation NAME] [--flex-start 7d]
  status   shows their state
  install  copies this repository to every worker and installs it   [--bucket BUCKET, mounted beside it: ../bucket]
  keep     create, install and start, again and again until the run is finished: when a spot slice is taken away, it
           is deleted and made anew. Options of create and install, then -- and the command, as for start.
  start    starts the same command on every worker, e.g.  start NAME --zone ZONE -- train configs/x.yaml run.dir=...
  log      follows the log of process 0, or of another one    [--worker N]
  stop     sends SIGTERM to every worker and waits: the run saves and ends
  delete   deletes the TPU VMs

  --slices N   N slices of the type (queued resources; set mesh.data=N). Give it to every command.
  --queued     through a queued resource: waits for capacity instead of failing. Give it to create, status and delete.
  --dry-run    prints every command and runs none
TEXT
}

command=${1:-help}
case $command in
create | status | install | start | keep | log | stop | delete) ;;
*)
  usage
  [ "$command" = help ] || [ "$command" = --help ] || exit 2
  exit 0
  ;;
esac
name=${2:?"give a NAME; scripts/tpu_vm.sh --help"}
shift 2

zone='' type='' runtime='' bucket='' slices=1 spot='' queued='' dry='' account='' reservation='' flex='' worker=0
while [ $# -gt 0 ]; do
  case $1 in
  --zone) zone=$2 && shift 2 ;;
  --type) type=$2 && shift 2 ;;
  --runtime) runtime=$2 && shift 2 ;;
  --bucket) bucket=$2 && shift 2 ;;
  --service-account) account=$2 && shift 2 ;;
  --reservation) reservation=$2 && queued=1 && shift 2 ;;
  --flex-start) flex=$2 && queued=1 && shift 2 ;;
  --worker) worker=$2 && shift 2 ;;
  --slices) slices=$2 && queued=1 && shift 2 ;;
  --spot) spot=1 && shift ;;
  --queued) queued=1 && shift ;;
  --dry-run) dry=1 && shift ;;
  --) shift && break ;;
  *)
    echo "tpu_vm.sh: unknown option $1; see scripts/tpu_vm.sh --help" >&2
    exit 2
    ;;
  esac
done
: "${zone:?"give --zone, e.g. --zone us-west4-a"}"

run() {
  if [ -n "$dry" ]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

# One TPU VM of one or more workers a slice: NAME alone, or NAME-0, NAME-1, ... of a queued resource with a prefix.
nodes() {
  if [ "$slices" -eq 1 ]; then
    echo "$name"
  else
    for ((index = 0; index < slices; index++)); do echo "$name-$index"; done
  fi
}

# With several workers gcloud wants the key in an agent, because it connects to all of them at once.
agent() {
  [ -z "$dry" ] || return 0
  ssh-add -L >/dev/null 2>&1 && return 0
  [ -n "${SSH_AUTH_SOCK:-}" ] || eval "$(ssh-agent -s)" >/dev/null
  [ -f ~/.ssh/google_compute_engine ] || ssh-keygen -q -t rsa -N '' -f ~/.ssh/google_compute_engine
  ssh-add -q ~/.ssh/google_compute_engine
}

on_every_worker() { # COMMAND: on all workers of all slices at once
  local pids=() node pid status=0
  for node in $(nodes); do
    if [ -n "$dry" ]; then
      run gcloud compute tpus tpu-vm ssh "$node" --zone="$zone" --worker=all --command="$1"
    else
      gcloud compute tpus tpu-vm ssh "$node" --zone="$zone" --worker=all --command="$1" &
      pids+=($!)
    fi
  done
  for pid in "${pids[@]}"; do wait "$pid" || status=$?; done
  return "$status"
}

default_runtime() {
  case $type in
  v4-*) echo tpu-ubuntu2204-base ;;
  v5litepod-*) echo v2-alpha-tpuv5-lite ;;
  v5p-*) echo v2-alpha-tpuv5 ;;
  v6e-*) echo v2-alpha-tpuv6e ;;
  *)
    echo "tpu_vm.sh: no runtime version is known for --type $type; give --runtime" >&2
    return 2
    ;;
  esac
}

create() {
  : "${type:?"give --type, e.g. --type v5litepod-16"}"
  local version options=()
  version=${runtime:-$(default_runtime)}
  [ -z "$spot" ] || options+=(--spot)
  [ -z "$account" ] || options+=(--service-account="$account" --scopes=cloud-platform)
  if [ -z "$queued" ]; then
    run gcloud compute tpus tpu-vm create "$name" --zone="$zone" --accelerator-type="$type" --version="$version" "${options[@]}"
    return
  fi
  if [ "$slices" -gt 1 ]; then options+=(--node-count="$slices" --node-prefix="$name"); else options+=(--node-id="$name"); fi
  local track=()
  [ -z "$reservation" ] || { options+=(--reservation="$reservation") && track=(alpha); }
  [ -z "$flex" ] || { options+=(--provisioning-model=flex-start --max-run-duration="$flex") && track=(alpha); }
  run gcloud "${track[@]}" compute tpus queued-resources create "$name" --zone="$zone" --accelerator-type="$type" \
    --runtime-version="$version" "${options[@]}"
  echo "waits for capacity; scripts/tpu_vm.sh status says ACTIVE when the machines are there" >&2
}

status() {
  if [ -n "$queued" ]; then
    run gcloud compute tpus queued-resources describe "$name" --zone="$zone" --format='value(state.state)'
  else
    run gcloud compute tpus tpu-vm describe "$name" --zone="$zone" --format='value(state)'
  fi
}

install() {
  local archive node
  git diff --quiet HEAD || echo "tpu_vm.sh: changes that are not committed are not installed" >&2
  archive=${TMPDIR:-/tmp}/extra_jax.tar.gz
  run git archive --format=tar.gz --output="$archive" HEAD
  for node in $(nodes); do
    run gcloud compute tpus tpu-vm scp "$archive" "$node:extra_jax.tar.gz" --zone="$zone" --worker=all
  done
  on_every_worker "set -e; curl -LsSf https://astral.sh/uv/install.sh | sh; \
mkdir -p extra_jax; tar -xzf extra_jax.tar.gz -C extra_jax; cd extra_jax; ~/.local/bin/uv venv -q --python 3.12 .venv; \
~/.local/bin/uv pip install -q --python .venv -c scripts/tpu_constraints.txt '.[tpu,gcs]'"
  [ -z "$bucket" ] || on_every_worker "set -e; . /etc/os-release; key=/usr/share/keyrings/gcsfuse.asc; \
curl -fsSL https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee \$key >/dev/null; \
echo \"deb [signed-by=\$key] https://packages.cloud.google.com/apt gcsfuse-\$VERSION_CODENAME main\" | \
sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null; wait='-o DPkg::Lock::Timeout=300'; \
sudo apt-get -qq \$wait update; sudo apt-get -qq \$wait install -y gcsfuse; \
mkdir -p bucket; mountpoint -q bucket || gcsfuse --implicit-dirs '$bucket' bucket"
}

start() {
  [ $# -gt 0 ] || { echo "tpu_vm.sh: give the command after --, e.g. -- train configs/x.yaml run.dir=..." >&2 && exit 2; }
  local arguments
  arguments=$(printf '%q ' "$@")
  on_every_worker "cd extra_jax; export PATH=\$PWD/.venv/bin:\$PATH; \
export EXTRA_JAX_STATUS=~/extra_jax.status; rm -f \$EXTRA_JAX_STATUS; \
setsid nohup scripts/pod_entry.sh $arguments >~/extra_jax.log 2>&1 </dev/null & echo \$! >~/extra_jax.pid"
}

log() {
  run gcloud compute tpus tpu-vm ssh "$(nodes | head -n 1)" --zone="$zone" --worker="$worker" \
    --command='tail -n 100 -F extra_jax.log'
}

stop() {
  on_every_worker "pid=\$(cat extra_jax.pid); kill -TERM \$pid 2>/dev/null || true; \
while kill -0 \$pid 2>/dev/null; do sleep 1; done; tail -n 2 extra_jax.log"
}

delete() {
  if [ -n "$queued" ]; then
    run gcloud compute tpus queued-resources delete "$name" --zone="$zone" --force --quiet
  else
    run gcloud compute tpus tpu-vm delete "$name" --zone="$zone" --quiet
  fi
}

# What `start` has left on worker 0: the exit status of the run, or nothing while it runs or after a preemption.
ended() {
  gcloud compute tpus tpu-vm ssh "$(nodes | head -n 1)" --zone="$zone" --worker=0 --command='cat extra_jax.status' 2>/dev/null
}

keep() {
  queued=1
  while true; do
    if [ -n "$dry" ]; then
      create && install && start "$@" && delete
      return
    fi
    create
    until [ "$(status)" = ACTIVE ]; do sleep "$look"; done
    if install && start "$@"; then
      while [ "$(status)" = ACTIVE ] && ! code=$(ended); do sleep "$look"; done
      case ${code:-} in
      0) delete && echo "finished" >&2 && return 0 ;;
      2) echo "tpu_vm.sh: the run does not start (exit status 2): scripts/tpu_vm.sh log; the machines are still there" >&2 && return 2 ;;
      esac
    fi
    echo "the run is not finished (${code:-the machines are gone}); it is started again on new ones" >&2
    code=''
    delete
    while status >/dev/null 2>&1; do sleep "$look"; done
  done
}

look=${TPU_VM_LOOK:-30} # seconds
case $command in install | start | keep | log | stop) agent ;; esac
"$command" "$@"
