#!/usr/bin/env bash
# Every speed figure that needs a GPU, in one run: tools/gpu_figures.sh OUT [python]
#
# Leaves JSON in OUT: speed at 512² (batch 1 and 8), 2048² and 4096² beside plain diffusers in the same process, each item of the
# fast path switched off in turn, memory and first picture in a fresh process per size, a folder of pictures end to end, and the
# GPU's tests. A step that fails is recorded and does not stop the others. About 15 minutes on one H100.
#
# TINY=1 runs the same steps on a CPU in a minute with the embedded model's size, to test this script.
set -u
out=${1:?usage: tools/gpu_figures.sh OUT [python]}
python=${2:-python}
root=$(cd "$(dirname "$0")/.." && pwd)
export PYTHONPATH="$root/src${PYTHONPATH:+:$PYTHONPATH}"
mkdir -p "$out" || exit 7

if [ "${TINY:-0}" = 1 ]; then
    require=(--device cpu --runs 1 --warmup 0) weights=random:rcod-tiny:0 device=cpu
    single=64 large=(128) pictures=3 ablated=(upsample) tests=(-k "chosen")
else
    require=(--gpu) weights=random:rcod-o:0 device=cuda
    single=512 large=(2048 4096) pictures=1000 tests=(-m gpu)
    ablated=(channels-last upsample norm time context vae-attention sdpa graph stream device batch)
fi

step() { # NAME COMMAND…: run, keep its output, record its exit code and seconds
    local name=$1 started code
    shift
    started=$(date +%s.%N)
    "$@" >"$out/$name.out" 2>"$out/$name.err"
    code=$?
    printf '{"step": "%s", "exit_code": %d, "seconds": %.1f}\n' "$name" "$code" "$(echo "$(date +%s.%N) - $started" | bc)" |
        tee -a "$out/steps.jsonl"
}

: >"$out/steps.jsonl"
git -C "$root" rev-parse HEAD >"$out/commit.txt" 2>/dev/null
command -v nvidia-smi >/dev/null && nvidia-smi -q >"$out/nvidia-smi.txt"
bench=("$python" -m rcodsr bench "${require[@]}")

# 1. does the fast path work here at all?
step tests "$python" -m pytest "$root/tests/models/test_rewrites.py" "$root/tests/engine/test_fast.py" -q -p no:cacheprovider "${tests[@]}"

# 2. speed, memory and fidelity beside plain modules
step "speed-$single" "${bench[@]}" --weights "$weights" --sizes "$single" --batch 1,8 --export-json "$out/speed-$single.json"
for size in "${large[@]}"; do
    step "speed-$size" "${bench[@]}" --weights "$weights" --sizes "$size" --batch 1 --export-json "$out/speed-$size.json"
done
step speed-rcod-s "${bench[@]}" --weights "${weights/rcod-o/rcod-s}" --sizes "$single" --batch 1 --export-json "$out/speed-rcod-s.json"
step speed-rcod-tiny "${bench[@]}" --weights rcod-tiny --sizes "$single" --batch 1 --export-json "$out/speed-rcod-tiny.json"

# 3. what each item gives: without it
for item in "${ablated[@]}"; do
    step "without-$item" "${bench[@]}" --weights "$weights" --sizes "$single" --batch 1 --items="-$item" \
        --export-json "$out/without-$item.json"
done

# 4. memory and time to the first and to later pictures, a fresh process per size
for size in "$single" "${large[@]}"; do
    step "memory-$size" "$python" "$root/tools/fresh_process.py" "$weights" "$device" "$size"
done

# 5. a folder, end to end, beside an empty run
"$python" - "$out/folder" "$pictures" "$((single / 4))" <<'PY'
import sys
from pathlib import Path

from PIL import Image

from rcodsr.bench.natural import natural_picture

folder, count, side = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
folder.mkdir(parents=True, exist_ok=True)
several = [Image.fromarray(natural_picture(side, i).permute(1, 2, 0).numpy()) for i in range(min(count, 50))]
for i in range(count):
    several[i % len(several)].save(folder / f"{i:04}.png")
PY
step folder "$python" -m rcodsr upscale "$out/folder" -o "$out/enlarged" -y --weights "$weights" --device "$device" --json
mkdir -p "$out/one" && cp "$out/folder/0000.png" "$out/one/"
step one-picture "$python" -m rcodsr upscale "$out/one" -o "$out/enlarged-one" -y --weights "$weights" --device "$device" --json
rm -rf "$out/enlarged" "$out/enlarged-one" "$out/folder" "$out/one"

# 6. opt-in
[ "$device" = cuda ] && step compiled "${bench[@]}" --weights "$weights" --sizes "$single" --batch 1 --compile \
    --export-json "$out/compiled.json"
! grep -qv '"exit_code": 0' "$out/steps.jsonl"
