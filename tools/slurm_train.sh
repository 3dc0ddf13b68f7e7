#!/usr/bin/env bash
# Trains under slurm, a process for each GPU:
#
#   GPUS=32 tools/slurm_train.sh PARTITION JOB_NAME CONFIG [flags of train.py]
#
# GPUS (8) in all, GPUS_PER_NODE (8), CPUS_PER_TASK (5); SRUN_ARGS is passed to srun. At a preemption (SIGTERM) the run saves
# its state and ends; the same command with --resume continues it.
set -euo pipefail

if [[ $# -lt 3 ]]; then
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
partition=$1 job=$2 config=$3
shift 3
gpus=${GPUS:-8}
per_node=${GPUS_PER_NODE:-8}
per_node=$((gpus < per_node ? gpus : per_node))
# shellcheck disable=SC2086  # SRUN_ARGS are several words
exec srun --partition "$partition" --job-name "$job" --ntasks "$gpus" --ntasks-per-node "$per_node" --gres "gpu:$per_node" \
    --cpus-per-task "${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    python -u "$(dirname "$0")/train.py" "$config" --launcher slurm "$@"
