"""Copy a trained checkpoint into the package and pin its hashes in weights.toml.

python tools/package_weights.py runs/rcod-tiny/checkpoint rcod-tiny
"""

import re
import shutil
import sys
from pathlib import Path

from rcodsr.checkpoints.format import load_model
from rcodsr.checkpoints.manifest import PACKAGE, project_file
from rcodsr.checkpoints.resolve import sha256


def main(checkpoint: Path, name: str) -> None:
    load_model(checkpoint)  # rejects a corrupt one
    target = PACKAGE / "assets" / name
    target.mkdir(parents=True, exist_ok=True)
    files = [checkpoint / "config.json", *sorted(checkpoint.glob("*.safetensors"))]
    rows = []
    for file in files:
        shutil.copyfile(file, target / file.name)
        rows.append(f'  {{ name = "{file.name}", bytes = {file.stat().st_size}, sha256 = "{sha256(file)}" }},')
    manifest = project_file("weights.toml")
    head, section, tail = manifest.read_text(encoding="utf-8").partition(f"[{name}]\n")
    pinned = "files = [\n" + "\n".join(rows) + "\n]"
    tail = re.sub(r"files = \[.*?\n?\]", lambda _: pinned, tail, count=1, flags=re.DOTALL)
    manifest.write_text(head + section + tail, encoding="utf-8")
    print(f"{name}: {sum(f.stat().st_size for f in files) / 1e6:.1f} MB in {target}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
