#!/usr/bin/env bash
# slurm_test.sh PARTITION JOB CONFIG CHECKPOINT [options of tools/test.py]
# From the environment: GPUS (8), GPUS_PER_NODE (8), CPUS_PER_TASK (5), GRES (gpu:GPUS_PER_NODE; none: nodes without GPUs),
# SRUN_ARGS (more words for srun, e.g. --account=x).
set -euo pipefail
if [[ $# -lt 4 ]]; then
    echo "usage: slurm_test.sh PARTITION JOB CONFIG CHECKPOINT [options of tools/test.py]; on one machine use: bash tools/dist_test.sh CONFIG CHECKPOINT GPUS" >&2
    exit 2
fi
if ! command -v srun > /dev/null; then
    echo "slurm_test.sh: there is no srun, so this is no machine of a Slurm cluster; here use: bash tools/dist_test.sh CONFIG CHECKPOINT GPUS" >&2
    exit 2
fi
PARTITION=$1 JOB=$2 CONFIG=$3 CHECKPOINT=$4
GPUS=${GPUS:-8} GPUS_PER_NODE=${GPUS_PER_NODE:-8} CPUS_PER_TASK=${CPUS_PER_TASK:-5}
# shellcheck disable=SC2086
srun -p "$PARTITION" --job-name="$JOB" --gres="${GRES:-gpu:$GPUS_PER_NODE}" --ntasks="$GPUS" --ntasks-per-node="$GPUS_PER_NODE" \
    --cpus-per-task="$CPUS_PER_TASK" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    python -u "$(dirname "$0")/test.py" "$CONFIG" "$CHECKPOINT" --launcher slurm --eval segm "${@:5}"
