#!/usr/bin/env bash
# Everything that only a GPU can tell, in at most 150 s: tools/gpu_check.sh OUT [--only STEP,STEP] [--dry-run] [--seconds N]
#
# OUT/steps.jsonl gets a line as each step ends; docs/gpu.md says what the figures mean. TINY=1 runs the same steps on the CPU with
# small models, to rehearse them. --dry-run builds every step's real shapes without weights and parses its options.
# Exit codes: 0 all steps ended well, 1 a step failed or ran over, 4 no GPU.
set -u
[ $# -ge 1 ] || { echo "usage: tools/gpu_check.sh OUT [--only STEP,STEP] [--dry-run] [--seconds N]" >&2; exit 2; }
. "$(dirname "$0")/gpu_env.sh"
exec "$python" "$root/tools/gpu_check.py" "$@"
