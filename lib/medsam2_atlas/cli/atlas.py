"""`medsam2-atlas atlas …`: build an atlas, look at it, apply it."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from medsam2_atlas.atlas import Atlas, build_atlas, find_references, score_maps
from medsam2_atlas.console import bars, console
from medsam2_atlas.files import replacing
from medsam2_atlas.labels import organ_table
from medsam2_atlas.volume import read_volume

app = typer.Typer(help="The atlas of annotated CTs.", no_args_is_help=True)


class Missing(str, enum.Enum):
    """What a label that a reference lacks means."""

    unknown = "unknown"
    absent = "absent"


@app.command("build")
def build_command(
    references: Annotated[Path, typer.Argument(help="Folder with images/ and labels/, files of the same names.")],
    out: Annotated[Path, typer.Argument(help="Folder of the atlas; an atlas that stands there is replaced.")],
    missing: Annotated[
        Missing,
        typer.Option(help="An organ that a label map lacks: not annotated (unknown) or truly not there (absent)."),
    ] = Missing.unknown,
) -> None:
    """Register annotated CTs into a common space and average their labels there."""
    with bars() as progress:
        atlas = build_atlas(find_references(references), missing=missing.value, progress=progress)
    atlas.save(out)
    _show(atlas)
    typer.echo(f"atlas {atlas.version} of {len(atlas.references)} references written to {out}")


@app.command("info")
def info_command(folder: Annotated[Path, typer.Argument(help="Folder of the atlas.")]) -> None:
    """Print what an atlas holds."""
    atlas = Atlas.load(folder)
    _show(atlas)
    typer.echo(f"version {atlas.version}; references: {', '.join(r.name for r in atlas.references)}")


@app.command("scores")
def scores_command(
    image: Annotated[Path, typer.Argument(help="CT: NIfTI, NRRD, MHA or a folder with a DICOM series.")],
    atlas: Annotated[Path, typer.Option("--atlas", help="Folder of the atlas.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Score maps as .npz, 0..255 per organ.")] = None,
) -> None:
    """Print the highest score of each organ in a CT; write the score maps where asked."""
    volume = read_volume(image)
    with bars() as progress:
        scores = score_maps(volume, Atlas.load(atlas), progress=progress)
    table = Table("organ", "highest score", "in the scan", "slices")
    for k, score in scores.maps.items():
        threshold = organ_table()[k].threshold
        seen = np.flatnonzero((score.values > threshold * 255).any((1, 2))) + score.low[0]
        table.add_row(
            organ_table()[k].display,
            f"{score.maximum:.2f}",
            f"{score.visible:.0%}",
            f"{seen[0]}–{seen[-1]}" if len(seen) else "none",
        )
    console.print(table)
    if out is not None:
        arrays = {}
        for k, score in scores.maps.items():
            arrays[f"{organ_table()[k].name}.values"] = score.values
            arrays[f"{organ_table()[k].name}.low_zyx"] = np.array(score.low)
        with replacing(out) as part, part.open("wb") as stream:
            np.savez_compressed(stream, stride=np.array(scores.stride), **arrays)  # type: ignore[arg-type]


def _show(atlas: Atlas) -> None:
    table = Table("organ", "references", "highest share")
    for k, organ_map in atlas.maps.items():
        table.add_row(organ_table()[k].display, str(organ_map.count), f"{organ_map.values.max() / 255:.2f}")
    console.print(table)
