#!/usr/bin/env bash
# Builds the site, build/site/index.html, without a network: the code of its pages is run, and a warning is an error.
# Arguments go to sphinx-build, such as: --fresh-env
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh
setup dev

export JAX_PLATFORMS=cpu
exec "$venv/bin/sphinx-build" --builder html --fail-on-warning --conf-dir docs --doctree-dir build/doctrees "$@" . build/site
