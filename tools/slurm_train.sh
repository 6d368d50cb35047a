#!/usr/bin/env bash
# slurm_train.sh PARTITION JOB CONFIG WORK_DIR [options of tools/train.py]
# From the environment: GPUS (8), GPUS_PER_NODE (8), CPUS_PER_TASK (5), GRES (gpu:GPUS_PER_NODE; none: nodes without GPUs),
# SRUN_ARGS (more words for srun, e.g. --account=x).
set -euo pipefail
USAGE="usage: slurm_train.sh PARTITION JOB CONFIG WORK_DIR [options]"
PARTITION=${1:?$USAGE} JOB=${2:?$USAGE} CONFIG=${3:?$USAGE} WORK_DIR=${4:?$USAGE}
GPUS=${GPUS:-8} GPUS_PER_NODE=${GPUS_PER_NODE:-8} CPUS_PER_TASK=${CPUS_PER_TASK:-5}
# shellcheck disable=SC2086
srun -p "$PARTITION" --job-name="$JOB" --gres="${GRES:-gpu:$GPUS_PER_NODE}" --ntasks="$GPUS" --ntasks-per-node="$GPUS_PER_NODE" \
    --cpus-per-task="$CPUS_PER_TASK" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    python -u "$(dirname "$0")/train.py" "$CONFIG" --work-dir "$WORK_DIR" --launcher slurm --auto-resume "${@:5}"
