"""Generates a studies folder and a small atlas for benchmarks of the server."""

from __future__ import annotations

import shutil
from pathlib import Path

from medsam2_atlas.atlas import build_atlas, find_references
from medsam2_atlas.demo.phantoms import write_dataset

REFERENCES = 2


def make_studies(folder: Path, count: int, population: int, spacing: float) -> dict[str, str]:
    """Writes `studies/case-N.nii.gz`, their label maps in `cases/labels`, and `atlas`; returns the app's settings for them."""
    write_dataset(folder / "cases", count, population, spacing=spacing)
    (folder / "studies").mkdir()
    for n, file in enumerate(sorted((folder / "cases" / "images").iterdir())):
        shutil.copy(file, folder / "studies" / f"case-{n}.nii.gz")
    write_dataset(folder / "references", REFERENCES, population + 1, spacing=max(4.0, spacing))
    build_atlas(find_references(folder / "references")).save(folder / "atlas")
    return {"atlas": str(folder / "atlas"), "learning": "false"}
