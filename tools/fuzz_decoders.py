"""Fuzz the path from a file to a picture: a forked worker must either read mutated seeds or raise `InputError`.

    python tools/fuzz_decoders.py --minutes 10 --out findings

A finding is any outcome other than a `Picture` or an `InputError`: another exception, a killed worker, or more than five
seconds. Its bytes are saved in the output folder, for tests/images/findings.
"""

import argparse
import io
import os
import random
import signal
import struct
import sys
import time
import traceback
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from rcodsr.errors import InputError
from rcodsr.images.io import Piped, encode, read
from rcodsr.images.picture import Picture

SECONDS = 5
ROUND = 500
"""Mutations per worker; it reports each number through a pipe, so that the last one of a killed worker is known."""


def seeds() -> list[bytes]:
    """Small intact files of every format and mode."""
    rng = np.random.default_rng(0)
    base = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8).repeat(2, 0)[:24].copy())
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Camera"
    found = []
    for format in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF"):
        for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK"):
            for options in ({}, {"exif": exif.tobytes(), "xmp": b"<x/>"}, {"compression": "tiff_lzw"}, {"progressive": True}):
                buffer = io.BytesIO()
                try:
                    base.convert(mode).save(buffer, format, **options)
                except (OSError, ValueError, KeyError, TypeError):
                    continue
                found.append(buffer.getvalue())
    grey = torch.rand(1, 24, 32).expand(3, -1, -1)
    for picture in (Picture(torch.rand(3, 24, 32), torch.rand(1, 24, 32), depth=16), Picture(grey, gray=True, depth=16)):
        found += [encode(picture, format, record={"seed": 1}) for format in ("PNG", "TIFF")]
    return list(dict.fromkeys(found + structured(base, exif.tobytes())))


def structured(image: Image.Image, exif: bytes) -> list[bytes]:
    """Files with much metadata: chunks before and after the pixels, directories, boxes, XMP."""
    packed = zlib.compress(b"<x/>" * 400_000)
    pieces = [(b"cICP", bytes([9, 16, 0, 1])), (b"gAMA", bytes([0, 1, 134, 160])), (b"iCCP", b"p\0\0" + packed[:300])]
    late = [(b"eXIf", exif[6:]), (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + packed), (b"zTXt", b"k\0\0x")]
    files = [with_chunks(image, pieces[:n], late[:n]) for n in (1, 2, 3)]
    xmp = (
        b'<x xmlns:G="http://ns.google.com/photos/1.0/panorama/" hdrgm:Version="1" G:TopPixels="4"><Container:Directory>1'
        b'</Container:Directory><mwg-rs:AppliedToDimensions stDim:w="4"/></x>'
    )
    resources = b"8BIM\x07\xd0\0\0\0\0\0\x04path" * 3
    for format, options in (
        ("JPEG", {"extra": b"\xff\xed" + struct.pack(">H", len(resources) + 16) + b"Photoshop 3.0\0" + resources, "xmp": xmp}),
        ("TIFF", {"save_all": True, "append_images": [image.resize((9, 9))], "tiffinfo": {254: 1, 330: 8, 34377: resources}}),
        ("WEBP", {"lossless": True, "xmp": xmp}),
        ("AVIF", {"xmp": xmp, "exif": exif}),
    ):
        buffer = io.BytesIO()
        image.save(buffer, format, **options)
        files.append(buffer.getvalue())
    deep = b"P6 4 3 65535\n" + bytes(range(72))
    return [*files, deep]


def with_chunks(image: Image.Image, before: list[tuple[bytes, bytes]], behind: list[tuple[bytes, bytes]]) -> bytes:
    """A PNG with additional chunks before and after its pixels."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    data = buffer.getvalue()

    def joined(chunks: list[tuple[bytes, bytes]]) -> bytes:
        checked = ((kind + body, zlib.crc32(kind + body)) for kind, body in chunks)
        return b"".join(struct.pack(">I", len(whole) - 4) + whole + struct.pack(">I", checksum) for whole, checksum in checked)

    start, end = data.index(b"IDAT") - 4, data.index(b"IEND") - 4
    return data[:start] + joined(before) + data[start:end] + joined(behind) + data[end:]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Apply a few changes: bits, bytes, boundary numbers, cuts, repeats; mostly near the front, where headers are."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = int(rng.random() ** 2 * len(out))
        kind = rng.randrange(6)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 2:
            out[at : at + 4] = rng.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\1", b"\1\0\0\0"))
        elif kind == 3:
            del out[at : at + rng.randrange(1, 64)]
        elif kind == 4:
            out[at:at] = out[at : at + rng.randrange(1, 64)]
        else:
            del out[rng.randrange(len(out) + 1) :]
        if not out:
            return b"\0"
    return bytes(out)


def try_one(data: bytes) -> str:
    """Describe the fault in reading a file; empty if there is none."""
    signal.alarm(SECONDS)
    try:
        picture = read(Piped(data), max_pixels=4_000_000)
        if not torch.isfinite(picture.rgb).all() or picture.rgb.min() < 0 or picture.rgb.max() > 1:
            return "pixels outside [0, 1]"
    except InputError as error:
        return "two lines" if "\n" in str(error) else ""
    except BaseException:
        return traceback.format_exc()
    finally:
        signal.alarm(0)
    return ""


def work(seed: int, out: Path, files: list[bytes], pipe: int) -> None:
    """Run one worker's round."""
    for i in range(seed, seed + ROUND):
        rng = random.Random(i)
        data = mutated(rng.choice(files), rng)
        os.write(pipe, i.to_bytes(8))
        if trouble := try_one(data):
            keep(out, i, data, trouble)


def keep(out: Path, number: int, data: bytes, trouble: str) -> None:
    """Save a finding."""
    (out / f"{number}.bin").write_bytes(data)
    (out / f"{number}.txt").write_text(trouble)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--out", type=Path, default=Path("findings"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    files, number, until = seeds(), options.seed, time.monotonic() + 60 * options.minutes
    torch.set_num_threads(1)
    while time.monotonic() < until:
        reader, writer = os.pipe()
        if (child := os.fork()) == 0:
            signal.signal(signal.SIGALRM, signal.default_int_handler)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            work(number, options.out, files, writer)
            os._exit(0)
        os.close(writer)
        last = number
        while block := os.read(reader, 4096):
            last = int.from_bytes(block[-8:])
        os.close(reader)
        _, status = os.waitpid(child, 0)
        if status:
            rng = random.Random(last)
            keep(options.out, last, mutated(rng.choice(files), rng), f"the worker died: {status}")
        number = last + 1
    found = len(list(options.out.glob("*.bin")))
    print(f"{number - options.seed} mutations of {len(files)} seeds in {options.minutes:g} minutes: {found} findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
