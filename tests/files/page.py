"""Writes the table of input kinds into docs/inputs.md: `python tests/files/page.py` (`make inputs`)."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "inputs.md"
BEGIN, END = "<!-- from tests/files/table.py, by `make inputs` -->\n", "<!-- end of the table -->\n"


def with_table(page: str) -> str:
    """The page with the table of today in the place of the one that it has."""
    from files.table import SECTIONS

    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    sections = []
    for title, kinds in SECTIONS.items():
        rows = [f"| {kind.what} | {kind.verdict} |\n" for kind in kinds]
        sections.append(f"### {title}\n\n| file | verdict |\n| --- | --- |\n{''.join(rows)}\n")
    return before + BEGIN + "\n" + "".join(sections) + END + after


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "tests"))
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
