# Sourced by the scripts for GPU servers: the project runs from its sources, with the packages that tools/gpu_pack.sh has packed
# because they are missing there.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
scratch=$(mktemp -d)
[ -w "${HOME:-/nowhere}" ] || export HOME="$scratch" # Triton keeps what it compiles there
export PYTHONPATH="$root/src:$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONDONTWRITEBYTECODE=1
export HF_HOME="${HF_HOME:-$scratch}" HF_HUB_OFFLINE=1
if compgen -G "$root/.pack/wheels/*.whl" >/dev/null; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --disable-pip-version-check \
        --target "$scratch/site" "$root"/.pack/wheels/*.whl || exit 7
    export PYTHONPATH="$PYTHONPATH:$scratch/site"
fi
