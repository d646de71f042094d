"""Store the result of a GPU training in a few files of at most 16 MiB, and restore it: half precision, no optimiser moments.

python tools/gpu_files.py OUT RUN    from those files: the checkpoints RUN/averaged and RUN/raw, RUN/discriminator.safetensors
"""

import json
import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

_MOST = 15 << 20
"""Maximum bytes per file."""


def scatter(checkpoint: Path, out: Path, name: str) -> None:
    """Store a checkpoint's tensors as OUT/NAME-1.safetensors and so on."""
    shares: list[dict[str, Tensor]] = [{}]
    room = _MOST
    for file in sorted(checkpoint.glob("*.safetensors")):
        for key, value in load_file(file).items():
            if value.nbytes > room:
                shares.append({})
                room = _MOST
            room -= value.nbytes
            shares[-1][f"{file.stem}/{key}"] = value
    for number, share in enumerate(shares, 1):
        save_file(share, out / f"{name}-{number}.safetensors")


def gather(out: Path, name: str, checkpoint: Path) -> None:
    """Write the checkpoint that `scatter` split."""
    checkpoint.mkdir(parents=True, exist_ok=True)
    files: dict[str, dict[str, Tensor]] = {}
    for share in sorted(out.glob(f"{name}-*.safetensors")):
        for key, value in load_file(share).items():
            file, _, rest = key.partition("/")
            files.setdefault(file, {})[rest] = value
    for file, tensors in files.items():
        save_file(tensors, checkpoint / f"{file}.safetensors", metadata={"format": "pt"})
    config = json.loads((out / "training.json").read_text(encoding="utf-8"))["config"]
    (checkpoint / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def main(out: Path, run: Path) -> None:
    for name in ("averaged", "raw"):
        gather(out, name, run / name)
    if (judge := out / "discriminator.safetensors").exists():
        shutil.copyfile(judge, run / judge.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
