#!/usr/bin/env bash
# Sets up a virtual environment and runs the tests. Arguments go to pytest, such as: -m slow, or tests/formats
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh
setup dev

# One worker a core: the tests are many small programs. A worker takes whole stretches of them, so that what a module's
# tests share is made once, and the rest of another's when it is done. The slowest are told at the end.
exec "$venv/bin/python" -m pytest -n "${WORKERS:-auto}" --dist worksteal --durations=15 "$@"
