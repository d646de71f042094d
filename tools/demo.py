"""The demo behind `make demo`: shrink a public-domain photo and enlarge it at three realism levels.

python tools/demo.py DIRECTORY
"""

import subprocess
import sys
from pathlib import Path

import skimage.data
from PIL import Image


def main(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    photo = Image.fromarray(skimage.data.astronaut())  # NASA, public domain
    small = directory / "photo.png"
    photo.resize((128, 128), Image.Resampling.BICUBIC).save(small)
    photo.resize((128, 128), Image.Resampling.BICUBIC).resize((512, 512), Image.Resampling.BICUBIC).save(
        directory / "bicubic.png"
    )
    for realism in ("0", "0.5", "1"):
        output = directory / f"realism_{realism}.png"
        command = [sys.executable, "-m", "rcodsr", "upscale", str(small), "--realism", realism, "-o", str(output), "-y", "-q"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    print(f"The photo, 128×128:        {small}")
    print(f"Plain bicubic, 512×512:    {directory / 'bicubic.png'}")
    for realism, meaning in (("0", "stays with the evidence"), ("0.5", "neutral"), ("1", "believable texture")):
        print(f"{f'Realism {realism}:':26} {directory / f'realism_{realism}.png'} ({meaning})")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
