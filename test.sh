#!/usr/bin/env bash
# test.sh NODES GPUS_PER_NODE NODE_RANK MASTER_ADDRESS JOB_ID CONFIG CHECKPOINT [options of tools/test.py]
# Predicts and scores on one node of several; run_2_nodes.sh starts it on each of them.
set -euo pipefail
if [[ $# -lt 7 || ! "$1 $2 $3 $5" =~ ^[0-9]+\ [0-9]+\ [0-9]+\ [0-9]+$ ]]; then
    echo "usage: test.sh NODES GPUS_PER_NODE NODE_RANK MASTER_ADDRESS JOB_ID CONFIG CHECKPOINT [options]; on one machine use tools/dist_test.sh CONFIG CHECKPOINT GPUS" >&2
    exit 2
fi
# There is nothing to save when the time limit is near: go on
trap '' USR1
exec python -m torch.distributed.run --nnodes "$1" --nproc-per-node "$2" --node-rank "$3" \
    --master-addr "$4" --master-port "$((25000 + 10#$5 % 7000))" \
    "$(dirname "$0")/tools/test.py" "$6" "$7" --launcher pytorch --eval segm --gpu-collect "${@:8}"
