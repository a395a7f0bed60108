#!/usr/bin/env bash
# What every worker of a pod runs: `extra-jax "$@"` as one of several processes, found by jax.distributed itself.
#
# SIGTERM (preemption) is passed on, so that the run saves and ends. The exit status is then 75, "try again", unless the
# run is finished: that is how a JobSet knows that it has to start the same command once more.
set -uo pipefail

run_dir=''
for argument in "$@"; do
  case $argument in run.dir=*) run_dir=${argument#run.dir=} ;; esac
done
if [ -z "$run_dir" ] && [ -f "${2:-}" ]; then # of the configuration: run: {dir: X}, or dir: below run:
  run_dir=$(awk -v quotes="[\"']" '/^[^ #]/ { inside = /^run:/ } inside && match($0, /dir: *[^ ,}#]+/) {
    value = substr($0, RSTART, RLENGTH); sub(/dir: */, "", value); gsub(quotes, "", value); print value; exit }' "$2")
fi
: "${run_dir:=runs/default}"

# A second start, on new machines, finds the programs of the first one; port 8476 is open on the networks of TPUs.
case $run_dir in /* | ./* | ../*) : "${JAX_COMPILATION_CACHE_DIR:=$(dirname "$run_dir")/compiled}" ;; esac
export JAX_COMPILATION_CACHE_DIR JAX_COORDINATOR_PORT="${JAX_COORDINATOR_PORT:-8476}"

extra-jax "$@" distributed.enabled=true &
worker=$!
trap 'kill -TERM "$worker"' TERM INT
wait "$worker"
status=$?
while kill -0 "$worker" 2>/dev/null; do # a signal has ended the first wait; the run is saving
  wait "$worker"
  status=$?
done
case ${1:-} in train | sft | exprl) trains=1 ;; *) trains='' ;; esac
if [ "$status" -eq 0 ] && [ -n "$trains" ] && [ ! -d "$run_dir/export" ]; then
  echo "stopped before the end of $run_dir: exit status 75, start the same command again" >&2
  status=75
fi
[ -z "${EXTRA_JAX_STATUS:-}" ] || echo "$status" >"$EXTRA_JAX_STATUS" # for scripts/tpu_vm.sh keep
exit "$status"
