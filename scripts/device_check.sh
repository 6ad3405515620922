#!/usr/bin/env bash
# Checks and times the kernels on this machine's accelerator within LIMIT seconds (420), without a network: for a machine
# that holds a copy of the tree and jax, flax, optax, orbax, numpy, scipy, and for the tests pytest with xdist and timeout.
# Results go to $OUT, or ./device_out, as they come; scripts/device_check.py says what, scripts/device_plan.py in what order.
#
#   bash scripts/device_check.sh              # PYTHON=... chooses the interpreter
#   ONLY="projections, 30M int4 auto, ncu" bash scripts/device_check.sh   # some parts or cases of device_plan.py
#   REHEARSE=1 bash scripts/device_check.sh   # the same on a CPU: everything tiny, the GPU's kernels interpreted
set -euo pipefail
cd "$(dirname "$0")/.."
links=$(mktemp -d)
trap 'rm -rf "$links"' EXIT

# The package as setup.py would install it, by links, so that neither pip nor a build backend is needed.
mkdir "$links/capscale"
for entry in capscale/*; do
  case $entry in */__pycache__ | */kernels | */experiments) ;; *) ln -s "$PWD/$entry" "$links/$entry" ;; esac
done
ln -s "$PWD/kernels" "$links/capscale/kernels"
ln -s "$PWD/experiments" "$links/capscale/experiments"
export PYTHONPATH="$links:$PWD/scripts${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONSAFEPATH=1 # the tree itself would be found first, and it holds no capscale/kernels
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTHONHASHSEED=0
if [ -n "${REHEARSE-}" ]; then export JAX_PLATFORMS=cpu; else export JAX_PLATFORMS="${JAX_PLATFORMS-}"; fi # tests choose the CPU otherwise
export XLA_PYTHON_CLIENT_PREALLOCATE=false # several processes share the device
export JAX_COMPILATION_CACHE_DIR="$links/cache" JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1

"${PYTHON:-python3}" scripts/device_check.py
