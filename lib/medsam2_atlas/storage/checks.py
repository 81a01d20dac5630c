"""Checks a label file before it is saved."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.decoding import run_task
from medsam2_atlas.imaging.kinds import LABEL_SUFFIXES, SEGMENTATION, SUFFIXES, suffix_in
from medsam2_atlas.imaging.labels import OrganTable, organ_table


@dataclass(frozen=True)
class CheckedLabel:
    """The contents of a checked label map.

    Attributes:
        organs: the numbers of its organs.
        digest: a checksum of its voxels and grid.
        remarks: see `Volume`.
    """

    organs: tuple[int, ...]
    digest: str
    remarks: tuple[str, ...] = ()


def suffix_of(name: str, *, labels: bool = False) -> str:
    """Returns the suffix of an image file, in lower case.

    Args:
        name: the name of the file.
        labels: whether the suffixes of label files are accepted too.

    Raises:
        InputError: the file's type is not supported.

    >>> suffix_of("patient.v2.NII.GZ")
    '.nii.gz'
    """
    suffix = suffix_in(name, labels=labels)
    if not suffix:
        misplaced = name.lower().endswith(SEGMENTATION)
        problem = "is a segmentation, not a CT." if misplaced else "has an unsupported type."
        raise InputError(Path(name).name[-80:], problem, f"Send one of {', '.join(LABEL_SUFFIXES if labels else SUFFIXES)}.")
    return suffix


def inspect_label(file: Path, image: Path) -> CheckedLabel:
    """Returns the contents of a label map, including numbers that are not in the organ table.

    Args:
        file: the label map.
        image: the image of its study.

    Raises:
        InputError: the label map cannot be read, or is not on the grid of the image.
    """
    suffix_of(file.name, labels=True)
    result, _ = run_task("label_check", file, path=str(file.absolute()), image=str(image.absolute()))
    organs = tuple(value for value in result["held"] if value)
    return CheckedLabel(organs, str(result["digest"]), tuple(result["remarks"]))


def check_label(file: Path, image: Path, table: OrganTable | None = None) -> CheckedLabel:
    """Checks that a label map is readable, on the grid of the image, and contains known organs only. It may be empty.

    Args:
        file: the label map.
        image: the image of its study.
        table: the known organs; those of `configs/labels.yaml` by default.

    Raises:
        InputError: the label map fails the check.
    """
    table, found = table or organ_table(), inspect_label(file, image)
    unknown = sorted({*found.organs} - {*table.indices})
    if unknown:
        raise InputError(
            file.name, f"contains values {unknown[:8]} that are not in the organ table.", "Use the numbers that /info lists."
        )
    return found
