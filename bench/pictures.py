"""Small PNG files for the documentation."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from medsam2_atlas.base.files import replacing

MAX_BYTES = 150_000
MAX_WIDTH = 1200


def write_picture(picture: Image.Image, file: Path, few: bool = False) -> None:
    """Writes a picture, at most 1200 pixels wide, with as many colours as fit into 150 kB.

    Args:
        picture: the picture.
        file: PNG file to write.
        few: whether colours that fill few pixels are kept, too, such as those of a list of organs.
    """
    picture = picture.convert("RGB")
    if picture.width > MAX_WIDTH:
        size = (MAX_WIDTH, round(picture.height * MAX_WIDTH / picture.width))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    for colours in (0, 256, 128, 64, 32):
        stream = BytesIO()
        reduced = _with_few(picture, colours) if few and colours else picture.quantize(colours) if colours else picture
        reduced.save(stream, "PNG", optimize=True)
        if len(stream.getvalue()) < MAX_BYTES:
            break
    with replacing(file) as part:
        part.write_bytes(stream.getvalue())
    print(f"{file}: {len(stream.getvalue()) // 1000} kB")


def _with_few(picture: Image.Image, colours: int) -> Image.Image:
    """Returns a picture with a palette of which half are greys, as in a CT, and half the other colours, however rare."""
    pixels = np.asarray(picture)
    vivid = np.unique(pixels[np.ptp(pixels, axis=2) > 16], axis=0)
    others = Image.fromarray(vivid[None]).quantize(colours // 2).getpalette()
    greys = np.linspace(0, 255, colours - len(others or []) // 3).astype(int).repeat(3).tolist()
    palette = Image.new("P", (1, 1))
    palette.putpalette(greys + (others or []))
    return picture.quantize(palette=palette, dither=Image.Dither.NONE)
