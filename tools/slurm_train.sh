#!/usr/bin/env bash
# slurm_train.sh PARTITION JOB CONFIG WORK_DIR [options of tools/train.py]
# From the environment: GPUS (8), GPUS_PER_NODE (8), CPUS_PER_TASK (5), GRES (gpu:GPUS_PER_NODE; none: nodes without GPUs),
# SRUN_ARGS (more words for srun, e.g. --account=x).
set -euo pipefail
if [[ $# -lt 4 ]]; then
    echo "usage: slurm_train.sh PARTITION JOB CONFIG WORK_DIR [options of tools/train.py]; on one machine use: bash tools/dist_train.sh CONFIG GPUS --work-dir WORK_DIR" >&2
    exit 2
fi
if ! command -v srun > /dev/null; then
    echo "slurm_train.sh: there is no srun, so this is no machine of a Slurm cluster; here use: bash tools/dist_train.sh CONFIG GPUS --work-dir WORK_DIR" >&2
    exit 2
fi
PARTITION=$1 JOB=$2 CONFIG=$3 WORK_DIR=$4
GPUS=${GPUS:-8} GPUS_PER_NODE=${GPUS_PER_NODE:-8} CPUS_PER_TASK=${CPUS_PER_TASK:-5}
# shellcheck disable=SC2086
srun -p "$PARTITION" --job-name="$JOB" --gres="${GRES:-gpu:$GPUS_PER_NODE}" --ntasks="$GPUS" --ntasks-per-node="$GPUS_PER_NODE" \
    --cpus-per-task="$CPUS_PER_TASK" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    python -u "$(dirname "$0")/train.py" "$CONFIG" --work-dir "$WORK_DIR" --launcher slurm --auto-resume "${@:5}"
