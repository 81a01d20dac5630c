"""What viewers send and what they get back: options in many shapes in, a label map file and JSON out."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.scratch import scratch_file
from medsam2_atlas.imaging.kinds import SUFFIXES
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import Volume, read_labels, write_volume

_DEFAULT_SUFFIX = ".nii.gz"


def choice(request: Mapping[str, Any], key: str, allowed: Sequence[str]) -> str:
    """Returns an option that is one of several names; the first by default. Viewers send a text, or the list they were offered.

    Raises:
        InputError: another name.
    """
    value = request.get(key)
    if isinstance(value, (list, tuple)):
        value = value[0] if value else None
    chosen = str(value) if value else allowed[0]
    if chosen not in allowed:
        raise InputError(chosen, f"cannot be chosen as {key}.", f"Choose from: {', '.join(allowed)}.")
    return chosen


def text(request: Mapping[str, Any], key: str) -> str:
    """Returns an option that is any text."""
    value = request.get(key)
    if isinstance(value, (list, tuple)):
        value = value[0] if value else None
    return str(value) if value else ""


def flag(request: Mapping[str, Any], key: str) -> bool:
    """Returns an option that is on or off."""
    return str(request.get(key, "")).strip().lower() in {"true", "1", "yes", "on"}


def names(request: Mapping[str, Any], key: str) -> list[str]:
    """Returns an option that lists names, as a list or separated by commas."""
    value = request.get(key) or ""
    listed = value if isinstance(value, (list, tuple)) else str(value).split(",")
    return [str(name).strip() for name in listed if str(name).strip()]


def organs(request: Mapping[str, Any]) -> tuple[int, ...]:
    """Returns the option `organs` as numbers; all of the table by default.

    Raises:
        InputError: not an organ of the table.
    """
    return tuple(organ_table().select(names(request, "organs")))


def suffix_of(request: Mapping[str, Any]) -> str:
    """Returns the file type that a viewer wants."""
    suffix = str(request.get("result_extension") or _DEFAULT_SUFFIX)
    return suffix if suffix in SUFFIXES else _DEFAULT_SUFFIX


def as_file(labels: Volume | Path, request: Mapping[str, Any]) -> str:
    """Returns a label map in a temporary file of the type that was asked for; the caller removes it.

    A viewer's script that reads voxels itself asks for them uncompressed (`result_compress` false), as OHIF's panel does.
    A file that is what was asked for is copied unread.
    """
    suffix, compress = suffix_of(request), str(request.get("result_compress", True)).lower() != "false"
    file = scratch_file(suffix)
    try:
        _write(labels, file, compress, suffix)
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    return str(file)


def _write(labels: Volume | Path, file: Path, compress: bool, suffix: str) -> None:
    if isinstance(labels, Path) and compress and suffix == _DEFAULT_SUFFIX and labels.name.endswith(suffix):
        shutil.copyfile(labels, file)
    else:
        write_volume(read_labels(labels) if isinstance(labels, Path) else labels, file, compress=compress)


def as_json(report: Mapping[str, Any], labels: Mapping[str, int]) -> dict[str, Any]:
    """Returns the report, where MONAI Label's clients and where OHIF look for it."""
    return {"label_names": dict(labels), "report": dict(report), "result": {"report": dict(report)}}
