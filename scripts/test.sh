#!/usr/bin/env bash
# Makes a virtual environment with the test dependencies and runs the test suite in it. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ ! -x .venv-test/bin/pytest ]; then
  python3 -m venv .venv-test
  # torch is the reference that the model is compared with; the CPU build, before anything else asks for it
  .venv-test/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
  .venv-test/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
fi
exec .venv-test/bin/pytest -n 2 --dist loadfile "$@"
