#!/usr/bin/env bash
# dist_test.sh CONFIG CHECKPOINT GPUS [options of tools/test.py]
set -euo pipefail
if [[ $# -lt 3 || ! $3 =~ ^([1-9][0-9]*|auto|cpu|gpu)$ ]]; then
    echo "usage: dist_test.sh CONFIG CHECKPOINT GPUS [options of tools/test.py], with GPUS the number of processes on this machine" >&2
    exit 2
fi
exec python -m torch.distributed.run --nnodes "${NNODES:-1}" --node-rank "${NODE_RANK:-0}" --nproc-per-node "$3" \
    --master-addr "${MASTER_ADDR:-127.0.0.1}" --master-port "${PORT:-29500}" \
    "$(dirname "$0")/test.py" "$1" "$2" --launcher pytorch --eval segm "${@:4}"
