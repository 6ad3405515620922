#!/usr/bin/env bash
# Sets up a virtual environment and holds the whole tree to its format, its lint rules and its types, as .ci/run does.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh
setup dev

"$venv/bin/ruff" format --check .
"$venv/bin/ruff" check .
exec "$venv/bin/pyright" --pythonpath "$venv/bin/python"
