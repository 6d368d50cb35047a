#!/usr/bin/env bash
# dist_train.sh CONFIG GPUS [options of tools/train.py]
# Several nodes: NNODES, NODE_RANK, MASTER_ADDR and PORT from the environment, one call on each node.
set -euo pipefail
if [[ $# -lt 2 || ! $2 =~ ^([1-9][0-9]*|auto|cpu|gpu)$ ]]; then
    echo "usage: dist_train.sh CONFIG GPUS [options of tools/train.py], with GPUS the number of processes on this machine" >&2
    exit 2
fi
exec python -m torch.distributed.run --nnodes "${NNODES:-1}" --node-rank "${NODE_RANK:-0}" --nproc-per-node "$2" \
    --master-addr "${MASTER_ADDR:-127.0.0.1}" --master-port "${PORT:-29500}" \
    "$(dirname "$0")/train.py" "$1" --launcher pytorch "${@:3}"
