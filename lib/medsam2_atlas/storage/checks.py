"""Looks at a label file before it is taken in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.decoding import run_task
from medsam2_atlas.imaging.kinds import LABEL_SUFFIXES, SEGMENTATION, SUFFIXES, suffix_in
from medsam2_atlas.imaging.labels import OrganTable, organ_table


@dataclass(frozen=True)
class CheckedLabel:
    """What a label map holds. organs: numbers of its organs. digest: of its voxels and grid. remarks: see `Volume`."""

    organs: tuple[int, ...]
    digest: str
    remarks: tuple[str, ...] = ()


def suffix_of(name: str, *, labels: bool = False) -> str:
    """Returns the suffix that tells the type of an image file, in lower case. labels: of a label file.

    Raises:
        InputError: another type.
    """
    suffix = suffix_in(name, labels=labels)
    if not suffix:
        misplaced = name.lower().endswith(SEGMENTATION)
        problem = "is a segmentation, not a CT." if misplaced else "is of a type that is not taken."
        raise InputError(Path(name).name[-80:], problem, f"Send one of {', '.join(LABEL_SUFFIXES if labels else SUFFIXES)}.")
    return suffix


def look_at_label(file: Path, image: Path) -> CheckedLabel:
    """Returns what a label map holds: any numbers, also those that are not in the organ table.

    Raises:
        InputError: it cannot be read, or is not on the grid of the image.
    """
    suffix_of(file.name, labels=True)
    told, _ = run_task("label_check", file, path=str(file.absolute()), image=str(image.absolute()))
    organs = tuple(value for value in told["held"] if value)
    return CheckedLabel(organs, str(told["digest"]), tuple(told["remarks"]))


def check_label(file: Path, image: Path, table: OrganTable | None = None) -> CheckedLabel:
    """Accepts a label map that is readable, on the grid of the image, and holds known organs only; it may be empty.

    Raises:
        InputError: what is wrong with it.
    """
    table, found = table or organ_table(), look_at_label(file, image)
    strange = sorted({*found.organs} - {*table.indices})
    if strange:
        raise InputError(
            file.name, f"holds values {strange[:8]} that are not in the organ table.", "Use the numbers that /info lists."
        )
    return found
