#!/usr/bin/env bash
# socc_8gpu.sh NODES GPUS_PER_NODE NODE_RANK MASTER_ADDRESS JOB_ID CONFIG WORK_DIR [options of tools/train.py]
# Trains on one node of several; run_2_nodes.sh starts it on each of them.
set -euo pipefail
if [[ $# -lt 7 || ! "$1 $2 $3 $5" =~ ^[0-9]+\ [0-9]+\ [0-9]+\ [0-9]+$ ]]; then
    echo "usage: socc_8gpu.sh NODES GPUS_PER_NODE NODE_RANK MASTER_ADDRESS JOB_ID CONFIG WORK_DIR [options]; on one machine use tools/dist_train.sh CONFIG GPUS --work-dir WORK_DIR" >&2
    exit 2
fi
# SIGUSR1, Slurm's warning before the time limit, and SIGTERM are for the training processes, and Slurm may send them to this script
# alone: it passes them on. torchrun would die of SIGUSR1, so it ignores it, and so do they until they have set their handler.
trap '' USR1
python -m torch.distributed.run --nnodes "$1" --nproc-per-node "$2" --node-rank "$3" \
    --master-addr "$4" --master-port "$((25000 + 10#$5 % 7000))" \
    "$(dirname "$0")/tools/train.py" "$6" --launcher pytorch --work_dir "$7" --auto-resume "${@:8}" &
TORCHRUN=$!
trap 'pkill -USR1 -P "$TORCHRUN" || true' USR1
trap 'pkill -TERM -P "$TORCHRUN" || kill -TERM "$TORCHRUN" || true' TERM
# A signal ends a `wait` before torchrun has ended; the last one returns its status
while kill -0 "$TORCHRUN" 2> /dev/null; do wait "$TORCHRUN" || true; done
wait "$TORCHRUN"
