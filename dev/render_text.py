"""Render pages, signs and charts: training pictures of sharp lettering and edges, which are rare in photos.

python dev/render_text.py OUT --count 56 --seed 0 [--fonts DIR]
"""

import argparse
import random
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SIDE = 512
SYLLABLES = """
ba ce di fo gu ha je ki lo mu na pe qui ro su ta ve wi xo zy Ar Ex In Or Un ST ND 12 345 67 890 & % ? ! :
"""

Color = tuple[int, int, int]


def color(rng: random.Random, dark: bool) -> Color:
    low, high = (0, 110) if dark else (150, 255)
    return rng.randint(low, high), rng.randint(low, high), rng.randint(low, high)


def background(rng: random.Random, dark: bool) -> Image.Image:
    """A plain background, or one shaded from corner to corner."""
    if rng.random() < 0.5:
        return Image.new("RGB", (SIDE, SIDE), color(rng, dark))
    corners = Image.new("RGB", (2, 2))
    for x in range(2):
        for y in range(2):
            corners.putpixel((x, y), color(rng, dark))
    return corners.resize((SIDE, SIDE), Image.Resampling.BILINEAR)


def font(rng: random.Random, files: list[Path], size: int) -> ImageFont.FreeTypeFont:
    if files and rng.random() < 0.8:
        return ImageFont.truetype(rng.choice(files), size)
    found = ImageFont.load_default(size)
    assert isinstance(found, ImageFont.FreeTypeFont)
    return found


def shapes(draw: ImageDraw.ImageDraw, rng: random.Random) -> None:
    for _ in range(rng.randint(0, 8)):
        x, y = rng.randint(-50, SIDE), rng.randint(-50, SIDE)
        box = (x, y, x + rng.randint(8, 260), y + rng.randint(8, 260))
        kind, ink = rng.choice(("rectangle", "ellipse", "line")), color(rng, rng.random() < 0.5)
        if kind == "line":
            draw.line(box, ink, rng.randint(1, 9))
        else:
            getattr(draw, kind)(box, fill=ink if rng.random() < 0.6 else None, outline=ink, width=rng.randint(1, 6))


def lines(draw: ImageDraw.ImageDraw, rng: random.Random, files: list[Path], dark: bool) -> None:
    y = rng.randint(0, 30)
    while y < SIDE:
        size = round(12 * 2 ** rng.uniform(0, 2.6))
        words = ("".join(rng.choices(SYLLABLES.split(), k=rng.randint(1, 4))) for _ in range(rng.randint(1, 9)))
        draw.text((rng.randint(-10, 120), y), " ".join(words), color(rng, not dark), font(rng, files, size))
        y += round(size * rng.uniform(1.1, 2.2))


def picture(rng: random.Random, files: list[Path]) -> Image.Image:
    dark = rng.random() < 0.4
    drawn = background(rng, dark)
    draw = ImageDraw.Draw(drawn)
    shapes(draw, rng)
    lines(draw, rng, files, dark)
    if rng.random() < 0.4:
        drawn = drawn.rotate(rng.uniform(-25, 25), Image.Resampling.BICUBIC, expand=False, fillcolor=color(rng, dark))
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--count", type=int, default=56)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fonts", type=Path, help="a folder of TrueType fonts beside Pillow's own")
    asked = parser.parse_args()
    files = sorted(asked.fonts.glob("*.ttf")) if asked.fonts else []
    asked.output.mkdir(parents=True, exist_ok=True)
    for i in range(asked.count):
        picture(random.Random(f"{asked.seed} {i}"), files).save(asked.output / f"text_{i:03}.png")


if __name__ == "__main__":
    main()
