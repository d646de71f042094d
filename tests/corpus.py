"""A generated corpus: pictures of every mode and depth, damage of every kind, each with what must become of it."""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import skimage.data
from PIL import Image, ImageCms

from rcodsr.images.deep import tiff
from rcodsr.images.png import encode_png as png
from tests.pngs import hollow_png

Pixels = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Specimen:
    """One file; `truth` is what it shows, None where it must be refused."""

    name: str
    data: bytes
    truth: Pixels | None = None
    """Shape (h, w, 3) or (h, w, 4), float in [0, 1], upright, as the file's own values."""


def _bytes(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def _photo() -> Image.Image:
    return Image.fromarray(skimage.data.chelsea()[60:92, 120:168])  # 48×32


def _shown(image: Image.Image) -> Pixels:
    transparent = image.mode in {"LA", "PA", "RGBA"} or "transparency" in image.info
    return np.asarray(image.convert("RGBA" if transparent else "RGB")) / 255


def specimens() -> Iterator[Specimen]:
    """Every file of the corpus."""
    yield from _modes()
    yield from _depths()
    yield from _colours()
    yield from _sizes()
    yield from _damaged()
    yield from _hostile()


def _modes() -> Iterator[Specimen]:
    photo = _photo()
    alpha = Image.fromarray(np.tile(np.linspace(80, 255, 48).astype(np.uint8), (32, 1)))
    clear = photo.copy()
    clear.putalpha(alpha)
    images = {
        "1": photo.convert("1"),
        "L": photo.convert("L"),
        "LA": clear.convert("LA"),
        "P": photo.quantize(64),
        "RGB": photo,
        "RGBA": clear,
    }
    for mode, image in images.items():
        yield Specimen(f"mode_{mode}.png", _bytes(image, "PNG"), _shown(image))
        if mode != "P":
            yield Specimen(f"mode_{mode}.tif", _bytes(image, "TIFF", compression="tiff_lzw"), _shown(image))
    kinds: dict[str, dict[str, Any]] = {
        "jpg": {},
        "webp": {"lossless": True},
        "bmp": {},
        "dib": {},
        "avif": {"quality": 95},
        "ppm": {},
    }
    for name, options in kinds.items():
        format = {"jpg": "JPEG"}.get(name, name.upper())
        yield Specimen(f"rgb.{name}", _bytes(photo, format, **options), _shown(photo))
    yield Specimen("progressive.jpg", _bytes(photo, "JPEG", progressive=True, quality=95), _shown(photo))
    yield Specimen("static.gif", _bytes(photo.quantize(128), "GIF"), _shown(photo.quantize(128)))
    yield Specimen("jpeg_in.tif", _bytes(photo, "TIFF", compression="jpeg", quality=95), _shown(photo))
    yield Specimen("cmyk.jpg", _bytes(photo.convert("CMYK"), "JPEG", quality=95), _shown(photo))
    yield Specimen("cmyk.tif", _bytes(photo.convert("CMYK"), "TIFF"), _shown(photo))
    for kind in (1, 3, 6, 8):
        exif = Image.Exif()
        exif[0x0112] = kind
        turned = np.rot90(_shown(photo), {1: 0, 3: 2, 6: -1, 8: 1}[kind])
        yield Specimen(f"orientation_{kind}.jpg", _bytes(photo, "JPEG", exif=exif, quality=95, subsampling=0), turned)
    yield Specimen("named_wrongly.jpg", _bytes(photo, "PNG"), _shown(photo))
    yield Specimen("junk_after_end.png", _bytes(photo, "PNG") + b"junk" * 100, _shown(photo))
    spotted = photo.quantize(16)
    spotted.info["transparency"] = 3
    yield Specimen("palette_with_transparency.gif", _bytes(spotted, "GIF", transparency=3), _shown(spotted))


def _depths() -> Iterator[Specimen]:
    down, across = np.mgrid[0:32, 0:48]
    ramp = ((down * 48 + across) * 40 + 700).astype(np.uint16)
    colour = np.stack([ramp, ramp[::-1], ramp[:, ::-1]], -1)
    alpha = np.full((32, 48, 1), 50_000, np.uint16)
    for name, samples in {"rgb": colour, "rgba": np.concatenate([colour, alpha], -1), "grey": ramp[..., None]}.items():
        shown = samples / 65535 if name != "grey" else np.repeat(samples, 3, -1) / 65535
        yield Specimen(f"deep_{name}.png", png(samples), shown)
        yield Specimen(f"deep_{name}.tif", tiff(samples, Image.Exif(), {}), shown)
    grey_alpha = np.concatenate([ramp[..., None], alpha], -1)
    yield Specimen("deep_la.png", png(grey_alpha), np.concatenate([np.repeat(ramp[..., None], 3, -1), alpha], -1) / 65535)
    grey = np.repeat(ramp[..., None], 3, -1) / 65535
    yield Specimen("deep.pgm", b"P5 48 32 65535\n" + ramp.astype(">u2").tobytes(), grey)
    yield Specimen("float.tif", _bytes(Image.fromarray((ramp / 65535).astype(np.float32)), "TIFF"), grey)
    yield Specimen("int32.tif", _bytes(Image.fromarray(ramp.astype(np.int32)), "TIFF"), grey)
    nan = (ramp / 65535).astype(np.float32)
    nan[3, 3] = np.nan
    yield Specimen("nan.tif", _bytes(Image.fromarray(nan), "TIFF"))


def _colours() -> Iterator[Specimen]:
    photo = _photo()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    yield Specimen("srgb.png", _bytes(photo, "PNG", icc_profile=srgb), _shown(photo))
    yield Specimen("wide.png", _bytes(photo, "PNG", icc_profile=wide_profile()), _shown(photo))
    yield Specimen("broken_profile.jpg", _bytes(photo, "JPEG", quality=95, icc_profile=b"nonsense" * 40), _shown(photo))
    yield Specimen("cut_profile.png", _bytes(photo, "PNG", icc_profile=srgb[:200]), _shown(photo))


def wide_profile() -> bytes:
    """A display profile with Adobe RGB's primaries and a gamma of 563/256, written by hand."""

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, 563) + b"\0\0"
    description = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"wide\0" + bytes(78)
    tags = {
        b"desc": description,
        b"cprt": b"text\0\0\0\0none\0\0\0\0",
        b"wtpt": xyz(0.9642, 1.0, 0.8249),
        b"rXYZ": xyz(0.60974, 0.31111, 0.01947),
        b"gXYZ": xyz(0.20528, 0.62567, 0.06087),
        b"bXYZ": xyz(0.14919, 0.06322, 0.74457),
        b"rTRC": curve,
        b"gTRC": curve,
        b"bTRC": curve,
    }
    table, body = struct.pack(">I", len(tags)), b""
    start = 132 + 12 * len(tags)
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data
    head = struct.pack(">I4sI4s4s4s", 128 + len(table) + len(body), b"lcms", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + table + body


def _sizes() -> Iterator[Specimen]:
    photo = _photo()
    for width, height in ((1, 1), (2, 2), (7, 7), (1, 200), (200, 1), (33, 5)):
        small = photo.resize((width, height))
        yield Specimen(f"size_{width}x{height}.png", _bytes(small, "PNG"), _shown(small))


def _damaged() -> Iterator[Specimen]:
    photo = Image.fromarray(skimage.data.chelsea()[:96, :96])
    for format in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF"):
        whole = _bytes(photo, format)
        for share in (10, 50, 90):
            yield Specimen(f"cut_{share}.{format.lower()}", whole[: len(whole) * share // 100])
    flipped = bytearray(_bytes(photo, "PNG"))
    flipped[len(flipped) // 2] ^= 0x10
    yield Specimen("bit_flip.png", bytes(flipped))
    yield Specimen("empty.png", b"")
    yield Specimen("one_byte.jpg", b"\xff")
    yield Specimen("noise.png", np.random.default_rng(0).bytes(3000))


def _hostile() -> Iterator[Specimen]:
    photo = _photo()
    frames = [photo.rotate(90 * i) for i in range(3)]
    for format, suffix in (("GIF", "gif"), ("PNG", "png"), ("WEBP", "webp"), ("TIFF", "tif")):
        yield Specimen(f"several.{suffix}", _bytes(frames[0], format, save_all=True, append_images=frames[1:]))
    yield Specimen("bomb_900_megapixels.png", hollow_png(30_000, 30_000))
    yield Specimen("bomb_of_the_output.png", hollow_png(9_000, 9_000))
    yield Specimen("eps.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n%%EOF\n")
    yield Specimen("page.jpg", b"<!DOCTYPE html><html><body>404</body></html>")
    yield Specimen("pointer.png", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    yield Specimen("archive.png", b"PK\x03\x04" + bytes(100))
    yield Specimen("photo.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
