#!/usr/bin/env bash
# All that has to be measured on a GPU, ending after eight minutes: bash benchmarks/gpu.sh [options of benchmarks/gpu.py]
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python3}" benchmarks/gpu.py "$@"
