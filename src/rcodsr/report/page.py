"""A comparison as one self-contained HTML page, which sends no network requests and opens from disk."""

import html
import io
import json
import shlex
from importlib import resources
from typing import Any

from PIL import Image

from rcodsr.images.departures import legend, reduced
from rcodsr.report.comparison import Comparison, Panel, said_of, written
from rcodsr.report.encoding import data_uri, png

_ROOM = 4_700_000
"""Maximum bytes of all pictures in base64, unless it would require too low a quality."""
_LOSSLESS_PIXELS = 2_500_000
"""Maximum pixels of all pictures for lossless compression."""
_QUALITIES = (95, 92, 88, 84, 80)
_WEBP_SIDE = 16_383
_MAP_SCALE = 4
"""Downscaling factor of maps, whose windows are twice as large."""


def html_page(comparison: Comparison) -> bytes:
    """Render the page: before/after and realism sliders over the computed levels, side-by-side views, linked zoom and pan.

    Pictures are embedded in the best quality that keeps the page below 5 MB, but never below WebP quality 80.
    """
    maps = ["" if panel.invented is None else _map_uri(reduced(panel.invented, _MAP_SCALE)) for panel in comparison.panels]
    images = _encoded([panel.image for panel in comparison.panels], _ROOM - sum(len(uri) for uri in maps))
    template = resources.files("rcodsr.report").joinpath("page.html").read_text(encoding="utf-8")
    figures = (
        _figure(panel, image, drawn, comparison) for panel, image, drawn in zip(comparison.panels, images, maps, strict=True)
    )
    parts = {
        "title": html.escape(comparison.name),
        "summary": _summary(comparison),
        "figures": "\n".join(figures),
        "rows": "\n".join(_row(panel, comparison) for panel in comparison.panels),
        "heads": "".join(f"<th scope=col>{html.escape(heading)}" for heading in comparison.headings),
        "data": json.dumps(_data(comparison)).replace("<", "\\u003c"),
        "legend": _map_uri(legend(420)),
        "width": str(comparison.size[0]),
        "height": str(comparison.size[1]),
    }
    for name, value in parts.items():
        template = template.replace("{{" + name + "}}", value)
    return template.encode("utf-8", "replace")


def _data(comparison: Comparison) -> dict[str, Any]:
    estimated = comparison.estimated
    return {
        "width": comparison.size[0],
        "height": comparison.size[1],
        "labels": [panel.label for panel in comparison.panels],
        "levels": [
            {
                "realism": panel.realism,
                "timestep": panel.timestep,
                "command": _command(comparison, panel),
                "evidence": panel.evidence,
            }
            for panel in comparison.levels
        ],
        "spots": comparison.spots,
        "estimated": None if estimated is None else {"realism": estimated.realism, "similarity": estimated.similarity},
    }


def _command(comparison: Comparison, panel: Panel) -> str:
    return f"rcodsr upscale {shlex.quote(comparison.name)} -r {panel.realism:g}"


def _summary(comparison: Comparison) -> str:
    width, height = comparison.size
    said = [f"{width}×{height} pixels, {comparison.weights}"]
    if comparison.estimated is not None:
        said.append(said_of(comparison.estimated))
    said += [comparison.remark] if comparison.remark else []
    return "<br>".join(html.escape(line[:1].upper() + line[1:]) for line in said)


def _figure(panel: Panel, image: str, map: str, comparison: Comparison) -> str:
    width, height = comparison.size
    label = html.escape(panel.label)

    def shown(words: str, source: str, kind: str = "") -> str:
        sides = f"width={width} height={height} draggable=false"
        return f'<img{kind} alt="{html.escape(comparison.name)}: {words}" {sides} src="{source}">'

    pictures = shown(label, image) + (shown(f"what was invented at {label}", map, " class=map") if map else "")
    return f"<figure><div class=window>{pictures}</div><figcaption>{label}</figcaption></figure>"


def _row(panel: Panel, comparison: Comparison) -> str:
    timestep = "" if panel.timestep is None else str(panel.timestep)
    cells = [f"<th scope=row>{html.escape(panel.label)}", f"<td>{timestep}"]
    for heading in comparison.headings:
        cells.append("<td>" + (written(heading, panel.scores[heading]) if heading in panel.scores else ""))
    return "<tr>" + "".join(cells)


def _encoded(images: list[Image.Image], room: int) -> list[str]:
    """Encode pictures as data URIs, in the best quality for which all of them fit into `room` bytes."""
    if sum(image.width * image.height for image in images) <= _LOSSLESS_PIXELS:
        exact: list[str] = []
        for image in images:
            exact.append(_uri(image, lossless=True))
            if sum(map(len, exact)) > room:
                break
        else:
            return exact
    # the most detailed level (last before the truth) represents all pictures when the quality is selected
    fitting = (quality for quality in _QUALITIES if len(_uri(images[-1], quality)) * len(images) <= room)
    quality = next(fitting, _QUALITIES[-1])
    return [_uri(image, quality) for image in images]


def _uri(image: Image.Image, quality: int = 80, lossless: bool = False) -> str:
    buffer = io.BytesIO()
    if max(image.size) > _WEBP_SIDE:
        image.save(buffer, "JPEG", quality=quality, subsampling=0)
        kind = "jpeg"
    else:
        image.save(buffer, "WEBP", quality=quality, lossless=lossless, method=4 if not lossless else 2)
        kind = "webp"
    return data_uri(kind, buffer.getvalue())


def _map_uri(image: Image.Image) -> str:
    return data_uri("png", png(image))
