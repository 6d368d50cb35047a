#!/usr/bin/env bash
# sbatch -N NODES [options of sbatch] run_2_nodes.sh train CONFIG WORK_DIR [options of tools/train.py]
# sbatch -N NODES [options of sbatch] run_2_nodes.sh test CONFIG CHECKPOINT [options of tools/test.py]
# Without arguments CONFIG and WORK_DIR (trains) or CHECKPOINT (tests) come from the environment: CONFIG=… WORK_DIR=… sbatch -N NODES run_2_nodes.sh
# From the environment: GPUS_PER_NODE, processes on each node (the GPUs that Slurm gives the job there; 1 where it gives none).
#SBATCH --job-name=splattingocc
#SBATCH --ntasks-per-node=1
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail
USAGE="usage: sbatch -N NODES [options of sbatch] run_2_nodes.sh train CONFIG WORK_DIR [options] | test CONFIG CHECKPOINT [options]; \
or without arguments, with CONFIG and one of WORK_DIR and CHECKPOINT in the environment; \
on one machine: bash tools/dist_train.sh CONFIG GPUS --work-dir WORK_DIR | bash tools/dist_test.sh CONFIG CHECKPOINT GPUS"
if [ $# -eq 0 ] && [ -n "${CONFIG:-}" ]; then
    case ${WORK_DIR:+w}${CHECKPOINT:+c} in w) set -- train "$CONFIG" "$WORK_DIR" ;; c) set -- test "$CONFIG" "$CHECKPOINT" ;; esac
fi
[ $# -ge 3 ] || { echo "$USAGE" >&2; exit 2; }
case $1 in train) ENTRY=socc_8gpu.sh ;; test) ENTRY=test.sh ;; *) echo "$1: $USAGE" >&2; exit 2 ;; esac
if [ -z "${SLURM_JOB_ID:-}" ] || [ -z "${SLURM_SUBMIT_DIR:-}" ]; then
    case $1 in train) HERE="dist_train.sh CONFIG GPUS --work-dir WORK_DIR" ;; *) HERE="dist_test.sh CONFIG CHECKPOINT GPUS" ;; esac
    echo "run_2_nodes.sh: this is no Slurm job; submit it with: sbatch -N 2 run_2_nodes.sh $1 …, or use on this machine: bash tools/$HERE" >&2
    exit 2
fi
# Slurm runs a copy of this file from a folder of its own
ENTRY=$SLURM_SUBMIT_DIR/$ENTRY
[ -f "$ENTRY" ] || { echo "$ENTRY: no such file; call sbatch in the folder of the repository" >&2; exit 2; }
HOSTS=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
# srun does not take over the job's --cpus-per-task by itself (Slurm 22.05 and later)
# shellcheck disable=SC2016  # each task reads its own SLURM_NODEID
exec srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --kill-on-bad-exit=1 \
    ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} \
    bash -c 'exec bash "$0" "$1" "$2" "$SLURM_NODEID" "${@:3}"' \
    "$ENTRY" "$SLURM_JOB_NUM_NODES" "${GPUS_PER_NODE:-${SLURM_GPUS_ON_NODE:-1}}" "${HOSTS%%$'\n'*}" "$SLURM_JOB_ID" "${@:2}"
