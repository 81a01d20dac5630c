"""Writes the table of input kinds into docs/inputs.md (`make inputs`)."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from generated_part import GeneratedPart

if TYPE_CHECKING:
    from files.kind import Kind

PAGE = GeneratedPart("inputs.md", "inputs")


def content() -> str:
    """Returns a table for each group of input kinds; each refused kind is written and read to get its remedy."""
    from files.table import LABEL_MAPS, SECTIONS

    sections = []
    for title, kinds in SECTIONS.items():
        rows = [f"| {kind.what} | {kind.verdict} | {remedy(kind, kinds is LABEL_MAPS)} |\n" for kind in kinds]
        sections.append(f"### {title}\n\n| file | verdict | what to do |\n| --- | --- | --- |\n{''.join(rows)}\n")
    return "".join(sections)


def remedy(kind: Kind, label: bool) -> str:
    """Returns the remedy in the error for a refused kind; empty if the kind is read. label: whether it is a label map."""
    from files.itk_files import written
    from medsam2_atlas.base.errors import InputError
    from medsam2_atlas.imaging.hounsfield import read_ct
    from medsam2_atlas.imaging.volume import read_labels

    if not kind.refused:
        return ""
    with tempfile.TemporaryDirectory() as made:
        (Path(made) / "file").mkdir()
        path = kind.write(Path(made) / "file")
        try:
            if label:
                read_labels(path, read_ct(written("ct.nii.gz")(Path(made))))
            else:
                read_ct(path)
        except InputError as error:
            return error.remedy
    raise AssertionError(f"{kind.what} is not refused")


if __name__ == "__main__":
    PAGE.write(content())
