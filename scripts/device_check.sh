#!/usr/bin/env bash
# Checks and times the kernels on this machine's accelerator, without a network: for a machine that holds a copy of the
# tree and jax, flax, optax, orbax, numpy and scipy, nothing else. Runs the tests marked `device`, then the
# benchmarks; writes device_check.json, benchmarks.json and benchmarks.txt into $OUT, or ./device_out. Ends within 9 minutes.
#
#   bash scripts/device_check.sh            # PYTHON=... chooses the interpreter
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
out=${OUT:-$PWD/device_out}
mkdir -p "$out"
links=$(mktemp -d)
trap 'rm -rf "$links"' EXIT

# The package as setup.py would install it, by links, so that neither pip nor a build backend is needed.
mkdir "$links/capscale"
for entry in capscale/*; do
  case $entry in */__pycache__) ;; *) ln -s "$PWD/$entry" "$links/$entry" ;; esac
done
ln -s "$PWD/kernels" "$links/capscale/kernels"
ln -s "$PWD/experiments" "$links/capscale/experiments"
export PYTHONPATH="$links${PYTHONPATH:+:$PYTHONPATH}"
export JAX_PLATFORMS="${JAX_PLATFORMS-}" # the tests would choose the CPU otherwise
export PYTHONSAFEPATH=1 # the tree itself would be found first, and it holds no capscale/kernels
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

"$python" -c "import capscale.kernels.matmul, capscale.formats.catalog, capscale.models.llama, capscale.train.step"
device=$("$python" -c "import jax; d = jax.devices()[0]; print(jax.default_backend(), '|', d.device_kind)")
echo "device: $device"

status=passed
case $device in
  cpu*)
    status="skipped: no accelerator"
    echo "no accelerator: device tests skipped"
    ;;
  *)
    if "$python" -c 'import pytest' 2>/dev/null; then
      timeout 240 "$python" -m pytest tests/kernels -m device -q -p no:cacheprovider 2>&1 | tee "$out/tests.txt" || status=failed
    else
      echo "pytest is not installed: scripts/bench_kernels.py compares every kernel with its reference in its place"
      status="skipped: no pytest; the benchmarks compare with the reference"
    fi
    ;;
esac

timeout 240 "$python" scripts/bench_kernels.py --json "$out/benchmarks.json" | tee "$out/benchmarks.txt" || status="$status, benchmarks failed"
"$python" - "$out/device_check.json" "$device" "$status" <<'END'
import json, sys
path, device, status = sys.argv[1:]
json.dump({"device": device, "device_tests": status}, open(path, "w"), indent=1)
END
echo "device tests: $status; results in $out"
case $status in *failed*) exit 1 ;; esac
