#!/usr/bin/env bash
# Trains on the GPUs of one machine, or of several that each run this:
#
#   tools/dist_train.sh CONFIG GPUS [flags of train.py]
#   NNODES=4 NODE_RANK=0 MASTER_ADDR=first-machine tools/dist_train.sh CONFIG 8
#   NNODES=2:4 MASTER_ADDR=first-machine tools/dist_train.sh CONFIG 8    # elastic: on two to four machines
#
# RESTARTS=3 restarts all processes from the last checkpoint when one has died, up to three times. An elastic run resumes
# from what is in the work_dir (--auto-resume), because all processes restart when a machine joins.
set -euo pipefail

if [[ $# -lt 2 ]]; then
    sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
config=$1 gpus=$2
shift 2
rendezvous=(--standalone)  # at a port that is free
resume=()
if [[ ${NNODES:-1} == *:* ]]; then
    resume=(--auto-resume)  # torchrun counts no restart when a machine joins
    rendezvous=(--nnodes "$NNODES" --rdzv-backend c10d --rdzv-id convnext --rdzv-endpoint "$MASTER_ADDR:${PORT:-29500}")
elif [[ ${NNODES:-1} -gt 1 ]]; then
    rendezvous=(--nnodes "$NNODES" --node-rank "$NODE_RANK" --master-addr "$MASTER_ADDR" --master-port "${PORT:-29500}")
fi
# By default torchrun (2.13) reuses the rendezvous of a failed attempt, where restarted processes read old addresses.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
exec python -m torch.distributed.run "${rendezvous[@]}" --nproc-per-node "$gpus" --max-restarts "${RESTARTS:-0}" \
    "$(dirname "$0")/train.py" "$config" "${resume[@]}" --launcher pytorch "$@"
