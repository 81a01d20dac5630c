"""Small PNG files for the documentation."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

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
    method = Image.Quantize.MAXCOVERAGE if few else None
    dither = Image.Dither.NONE if few else Image.Dither.FLOYDSTEINBERG
    picture = picture.convert("RGB")
    if picture.width > MAX_WIDTH:
        size = (MAX_WIDTH, round(picture.height * MAX_WIDTH / picture.width))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    for colours in (0, 256, 128, 64, 32):
        stream = BytesIO()
        (picture.quantize(colours, method, dither=dither) if colours else picture).save(stream, "PNG", optimize=True)
        if len(stream.getvalue()) < MAX_BYTES:
            break
    with replacing(file) as part:
        part.write_bytes(stream.getvalue())
    print(f"{file}: {len(stream.getvalue()) // 1000} kB")
