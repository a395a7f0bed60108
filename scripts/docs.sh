#!/usr/bin/env bash
# Builds the site of docs/ into build/site; a broken link or a page outside of the navigation is an error.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ ! -x .venv-docs/bin/mkdocs ]; then
  python3 -m venv .venv-docs
  .venv-docs/bin/python -m pip install --quiet --disable-pip-version-check "$(python3 -c \
    "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['docs'])")"
fi
NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict --quiet
if grep -rlE '<(script|link|img)[^>]+(src|href)="https?://' build/site --include='*.html' | head -1 | grep .; then
  echo "this page loads something from a network" >&2
  exit 1
fi
