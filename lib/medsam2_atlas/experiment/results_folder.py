"""Keeps the results folder of an experiment apart from other files, and free of files of earlier runs with other choices."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from medsam2_atlas.base.errors import InputError

_FILES: tuple[str, ...] = (
    "cases.csv",
    "costs.csv",
    "costs.json",
    "references.csv",
    "report.html",
    "sensitivity.csv",
    "summary.json",
    "tables.md",
    "tables.tex",
)
"""The files at the top of a results folder, except `made_with.json`, which every finished run writes."""
_FOLDERS = ("atlases", "labels", "plots", "records")
_OPTIONAL = ("references.csv", "sensitivity.csv")
"""Files that only some choices give; so are some plots."""


def check_results_folder(out: Path, inputs: Iterable[Path]) -> None:
    """Checks that an experiment would replace neither its data nor files of another program.

    Args:
        out: the results folder; it need not exist.
        inputs: folders of the data and of the atlas.

    Raises:
        InputError: if a folder of `inputs` is the results folder or one of its subfolders that results are written to, or the
            results folder has a file that no experiment wrote.
    """
    written = [out.resolve(), *((out / name).resolve() for name in _FOLDERS)]
    for folder in inputs:
        place = folder.resolve()
        if place in written or any(one in place.parents for one in written[1:]):
            problem = f"is a folder of the data, or results would be written into {folder}."
            raise InputError(out, problem, "Choose another folder for the results.")
    if not any((out / name).exists() for name in ("made_with.json", "records")):
        foreign = [name for name in _FILES if (out / name).exists()]
        foreign += sorted(f"plots/{file.name}" for file in (out / "plots").glob("*.svg"))
        if foreign:
            problem = f"has files that no evaluation wrote and that would be replaced: {', '.join(foreign[:10])}."
            raise InputError(out, problem, "Choose another folder.")


def remove_optional(out: Path) -> None:
    """Removes the files of an earlier run that the next one may not replace.

    Args:
        out: the results folder.
    """
    for file in (*(out / name for name in _OPTIONAL), *(out / "plots").glob("*.svg")):
        file.unlink(missing_ok=True)
