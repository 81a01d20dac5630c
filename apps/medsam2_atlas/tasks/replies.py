"""Reads options from viewers' requests, and writes the label map file and the JSON of the reply."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.scratch import scratch_file
from medsam2_atlas.imaging.kinds import SUFFIXES
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import Volume, read_labels, write_volume

VIEWER_GRID = "viewer_grid"
"""Key of a request that is true if its marks, and the label map of the reply, have the voxel order of the DICOM instances,
which is that of the CT in LPS orientation. Otherwise they have the order of the CT's file. Only the server sets it."""

_DEFAULT_SUFFIX = ".nii.gz"


def choice(request: Mapping[str, Any], key: str, allowed: Sequence[str]) -> str:
    """Returns an option that must be one of several names.

    Args:
        request: the request; the value is a text, or the list of names that the viewer was sent, whose first one counts.
        key: name of the option.
        allowed: the names; the first one is the default.

    Raises:
        InputError: the value is another name.

    Example:
        >>> choice({"prompts": ["both", "atlas"]}, "prompts", ("atlas", "unet", "both"))
        'both'
    """
    value = request.get(key)
    if isinstance(value, (list, tuple)):
        value = value[0] if value else None
    chosen = str(value) if value else allowed[0]
    if chosen not in allowed:
        raise InputError(chosen, f"cannot be used as {key}.", f"Choose from: {', '.join(allowed)}.")
    return chosen


def text(request: Mapping[str, Any], key: str) -> str:
    """Returns an option as a text; empty by default."""
    value = request.get(key)
    if isinstance(value, (list, tuple)):
        value = value[0] if value else None
    return str(value) if value else ""


def flag(request: Mapping[str, Any], key: str) -> bool:
    """Returns whether an option is on: true, 1, yes or on, in any case; off by default."""
    return str(request.get(key, "")).strip().lower() in {"true", "1", "yes", "on"}


def names(request: Mapping[str, Any], key: str) -> list[str]:
    """Returns an option that is a list of names, or a text of names separated by commas.

    Example:
        >>> names({"organs": "liver, spleen"}, "organs")
        ['liver', 'spleen']
    """
    value = request.get(key) or ""
    listed = value if isinstance(value, (list, tuple)) else str(value).split(",")
    return [str(name).strip() for name in listed if str(name).strip()]


def organs(request: Mapping[str, Any]) -> tuple[int, ...]:
    """Returns the option `organs` as numbers; all organs of the table by default.

    Raises:
        InputError: a name is not an organ of the table.
    """
    return tuple(organ_table().select(names(request, "organs")))


def suffix_of(request: Mapping[str, Any]) -> str:
    """Returns the suffix of the file type that the request asks for; `.nii.gz` by default."""
    suffix = str(request.get("result_extension") or _DEFAULT_SUFFIX)
    return suffix if suffix in SUFFIXES else _DEFAULT_SUFFIX


def as_file(labels: Volume | Path, request: Mapping[str, Any]) -> str:
    """Writes a label map to a temporary file of the requested type; the caller removes the file.

    Args:
        labels: the label map, or its file. A file that already has the requested type is copied without reading it.
        request: the request; `result_extension` is the type. With `result_compress` false, the file is not compressed: OHIF's
            panel asks for that, because its script reads the voxels itself. With `viewer_grid`, its voxels have the order of
            the DICOM instances instead of that of the CT's file.

    Returns:
        The path of the file.
    """
    suffix, compress = suffix_of(request), str(request.get("result_compress", True)).lower() != "false"
    file = scratch_file(suffix)
    try:
        _write(labels, file, compress, suffix, bool(request.get(VIEWER_GRID)))
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    return str(file)


def _write(labels: Volume | Path, file: Path, compress: bool, suffix: str, viewer_grid: bool) -> None:
    if isinstance(labels, Path) and not viewer_grid and compress and suffix == _DEFAULT_SUFFIX and labels.name.endswith(suffix):
        shutil.copyfile(labels, file)
        return
    volume = read_labels(labels) if isinstance(labels, Path) else labels
    write_volume(replace(volume, file_geometry=volume.geometry) if viewer_grid else volume, file, compress=compress)


def as_json(report: Mapping[str, Any], labels: Mapping[str, int]) -> dict[str, Any]:
    """Returns the JSON part of a reply, with the report in both places where MONAI Label's clients and OHIF look for it."""
    return {"label_names": dict(labels), "report": dict(report), "result": {"report": dict(report)}}
