"""Writes the table of input kinds into docs/inputs.md: `python tests/files/page.py` (`make inputs`)."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from files.kind import Kind

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "inputs.md"
BEGIN, END = "<!-- from tests/files/table.py, by `make inputs` -->\n", "<!-- end of the table -->\n"


def with_table(page: str) -> str:
    """Returns the page with its table replaced by the current one; each refused kind is written and read to get its remedy."""
    from files.table import LABEL_MAPS, SECTIONS

    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    sections = []
    for title, kinds in SECTIONS.items():
        rows = [f"| {kind.what} | {kind.verdict} | {remedy(kind, kinds is LABEL_MAPS)} |\n" for kind in kinds]
        sections.append(f"### {title}\n\n| file | verdict | what to do |\n| --- | --- | --- |\n{''.join(rows)}\n")
    return before + BEGIN + "\n" + "".join(sections) + END + after


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
    sys.path.insert(0, str(ROOT / "tests"))
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
