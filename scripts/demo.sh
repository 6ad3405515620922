#!/usr/bin/env bash
# Sets up a virtual environment, trains the demo sweep on text that every Python carries, and writes the report.
# Started again, it trains only what is missing. Arguments go to `capscale sweep`, such as: --text FILE
#
#   bash scripts/demo.sh             results in runs/demo, report in runs/demo/report
#   OUT=DIR bash scripts/demo.sh     results in DIR
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh
setup

out=${OUT:-runs/demo}
"$venv/bin/capscale" sweep capacity_demo --ladder nano --out "$out" "$@"
"$venv/bin/capscale" report "$out"
