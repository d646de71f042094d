#!/usr/bin/env bash
# What a GPU server without a network lacks, in the ignored folder .pack/: tools/gpu_pack.sh [PHOTOS JUDGES]
#
# .pack/wheels: Python packages that are missing there, for CPython 3.12 on x86-64 (set PACKAGES to name others).
# .pack/train: photos and judges for tools/gpu_train.sh, made of the folders PHOTOS and JUDGES.
# Each travels with the tracked files in a call of its own, of at most 60 MiB.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
most=$((60 << 20))
cd "$root"
rm -rf .pack/wheels
"$python" -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp --platform manylinux_2_28_x86_64 \
    --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 -d .pack/wheels ${PACKAGES:-diffusers importlib_metadata}
if [ $# -ge 2 ]; then
    PYTHONPATH="$root/src${PYTHONPATH:+:$PYTHONPATH}" "$python" tools/pack_training.py .pack/train "$1" "$2"
else
    echo "no PHOTOS and JUDGES given: .pack/train is left as it is"
fi

bytes() { du -cb "$@" | tail -1 | cut -f1; }
tracked=$(git ls-files -z | du -cb --files0-from=- | tail -1 | cut -f1)
for part in .pack/wheels .pack/train; do
    [ -d "$part" ] || continue
    size=$(($(bytes "$part") + tracked))
    printf '%s with the tracked files: %d.%d MiB\n' "$part" $((size >> 20)) $((size % (1 << 20) * 10 >> 20))
    [ "$size" -le "$most" ] || { echo "error: that is more than 60 MiB" >&2; exit 1; }
done
