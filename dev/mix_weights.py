"""Weighted mean of two checkpoints of one architecture, for weights that have not diverged far.

python dev/mix_weights.py EARLIER LATER 0.7 OUT
"""

import argparse
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("earlier", type=Path)
    parser.add_argument("later", type=Path, help="whose configuration is kept")
    parser.add_argument("share", type=float, help="of the later weights, 0 to 1")
    parser.add_argument("out", type=Path)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    for file in asked.later.glob("*.safetensors"):
        earlier, later = load_file(asked.earlier / file.name), load_file(file)
        mixed = {name: earlier[name].float().lerp(later[name].float(), asked.share).to(later[name].dtype) for name in later}
        save_file(mixed, asked.out / file.name)
    shutil.copyfile(asked.later / "config.json", asked.out / "config.json")


if __name__ == "__main__":
    main()
