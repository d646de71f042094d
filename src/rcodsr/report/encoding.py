"""Pictures as files, and files as addresses within a page."""

import base64
import io

from PIL import Image


def png(image: Image.Image) -> bytes:
    """A PNG file, compressed as well as it can be."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def data_uri(kind: str, data: bytes) -> str:
    """An image file as a data URI. `kind` is its media subtype: png, webp or jpeg."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
