#!/usr/bin/env bash
# Train the packaged model on this machine's GPU: tools/gpu_train.sh OUT [SECONDS]
#
# Needs .pack (tools/gpu_pack.sh). RECIPE=FILE trains by another recipe; EARLIER=DIR goes on from the files of an earlier run,
# EARLIER=rcod-small from the packaged weights; TINY=1 rehearses on a CPU. docs/gpu.md says what OUT holds afterwards.
set -u
out=${1:?usage: tools/gpu_train.sh OUT [SECONDS]}
seconds=${2:-440}
root=$(cd "$(dirname "$0")/.." && pwd)
export PYTHONPATH="$root/src:$root/tools${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
exec "${PYTHON:-python3}" "$root/tools/gpu_train.py" "$out" "$seconds" "${PACK:-$root/.pack/train}" ${EARLIER:+"$EARLIER"}
