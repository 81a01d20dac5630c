"""Finds the voxel grid of an NRRD file, and which of the file's axes are spatial."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from medsam2_atlas.imaging.decoding.grids import Grid, checked_grid
from medsam2_atlas.imaging.decoding.header import broken

_TO_LPS = {
    **dict.fromkeys(("left-posterior-superior", "lps"), (1, 1, 1)),
    **dict.fromkeys(("right-anterior-superior", "ras"), (-1, -1, 1)),
    **dict.fromkeys(("left-anterior-superior", "las"), (1, -1, 1)),
}
_UNNAMED = ("", "scanner-xyz", "3d-right-handed", "3d-left-handed")
"""Spaces without anatomical names; their axes are taken as LPS, as in ITK."""
_DOMAIN = ("domain", "space", "time", "???", "none")
_UNITS = {
    **dict.fromkeys(("mm", "millimeter", "millimeters", "millimetre"), 1.0),
    **dict.fromkeys(("um", "µm", "μm", "micron", "microns", "micrometer", "micrometers"), 0.001),
    **dict.fromkeys(("cm", "centimeter", "centimeters"), 10.0),
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), 1000.0),
}
_WORD = re.compile(r"\([^()]*\)|[^\s()]+")


def nrrd_kinds(file: Path, fields: Mapping[str, str], count: int) -> list[str]:
    """Returns the kind of each axis: `domain` for axes of the image, the file's kind for axes of components.

    Args:
        file: the file, for messages.
        fields: values of the header by field, without blanks in their names.
        count: number of axes.

    Raises:
        InputError: the number of kinds is not the number of axes.
    """
    kinds = fields.get("kinds", "").split() or ["domain"] * count
    if len(kinds) != count:
        raise broken(file, f"it has {count} axes and {len(kinds)} kinds")
    return ["domain" if kind.lower() in _DOMAIN else kind for kind in kinds]


def spatial_axes(file: Path, fields: Mapping[str, str], sizes: Sequence[int], kinds: Sequence[str]) -> list[int]:
    """Returns the indices of the image's axes: without axes of components, and without axes of size 1 that have no direction.

    Args:
        file: the file, for messages.
        fields: values of the header by field, without blanks in their names.
        sizes: size of each axis of the file.
        kinds: kind of each axis, from `nrrd_kinds`.

    Raises:
        InputError: the directions cannot be read.
    """
    words = _words(file, fields, len(sizes))
    image = [n for n, kind in enumerate(kinds) if kind == "domain"]
    image = [n for n in image if not (words and words[n].lower() == "none" and sizes[n] == 1 and len(image) > 3)]
    while len(image) > 3 and sizes[image[-1]] == 1:
        image.pop()
    return image


def nrrd_grid(file: Path, fields: Mapping[str, str], sizes: Sequence[int], axes: Sequence[int]) -> Grid:
    """Returns the grid of an NRRD file, in LPS.

    Args:
        file: the file, for messages.
        fields: values of the header by field, without blanks in their names.
        sizes: size of each axis of the file.
        axes: indices of the three spatial axes.

    Raises:
        InputError: the file has no usable grid.
    """
    space, vectors = fields.get("space", "").lower(), _vectors(file, fields, len(sizes))
    if space not in _TO_LPS and space not in _UNNAMED:
        raise broken(file, f"its space is {space[:40]!r}, not one of {', '.join(sorted(_TO_LPS))}")
    remarks: tuple[str, ...] = ()
    if space not in _TO_LPS:
        remark = "Its header does not give its orientation in the patient; its axes are taken as left, posterior and superior."
        remarks = (remark,)
    if vectors:
        found = [vectors[n] for n in axes]
        if not space and "spacedimension" not in fields:
            raise broken(file, "it has directions in a space that it does not name")
        matrix = np.array([[np.nan] * 3 if vector is None else vector for vector in found], float).T
        with np.errstate(all="ignore"):
            norms = np.sqrt(matrix[0] ** 2 + matrix[1] ** 2 + matrix[2] ** 2)
            directions = matrix * (1.0 / norms) if norms.all() else matrix  # rounds as NRRD's own library
        spacing, origin = norms, np.array(_origin(file, fields) or (0.0, 0.0, 0.0))
    else:
        if space and fields.get("spacings"):
            raise broken(file, "it names a space, but has no directions in it")
        spacing, origin = _along_axes(file, fields, sizes, axes)
        directions = np.eye(3)
        if "spaceorigin" in fields and space:
            origin = np.array(_origin(file, fields))
    flip = np.array(_TO_LPS.get(space, (1, 1, 1)), float)
    grid = checked_grid(
        file,
        [sizes[n] for n in axes],
        spacing.tolist(),
        (origin * flip).tolist(),
        directions * flip[:, None],
        _unit(file, fields, axes),
    )
    return Grid(grid.spacing, grid.origin, grid.direction, (*remarks, *grid.remarks))


def _along_axes(
    file: Path, fields: Mapping[str, str], sizes: Sequence[int], axes: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns spacing and origin from `spacings`, `axis mins` and `axis maxs`; 1 and 0 if the header has none."""

    def numbers(field: str) -> np.ndarray:
        found = _numbers(file, field, fields.get(field, ""), len(sizes)) if fields.get(field) else [np.nan] * len(sizes)
        return np.array([found[n] for n in axes])

    spacing, low, high = numbers("spacings"), numbers("axismins"), numbers("axismaxs")
    centers = (fields.get("centers") or fields.get("centerings") or "cell " * len(sizes)).lower().split()
    if len(centers) != len(sizes):
        raise broken(file, f"it has {len(sizes)} axes and {len(centers)} centers")
    cell = np.array([centers[n] != "node" for n in axes])
    counts = np.array([sizes[n] for n in axes], float)
    steps = (high - low) / np.maximum(np.where(cell, counts, counts - 1), 1)
    if np.isnan(spacing).all():
        spacing = np.ones(3) if np.isnan(steps).any() else steps
    elif np.isnan(spacing).any():
        raise broken(file, f"its spacings are {fields['spacings'][:40]!r}")
    step = np.where(np.isnan(steps), spacing, steps)
    origin = np.where(cell, low + step / 2, low)
    return spacing, np.zeros(3) if np.isnan(origin).any() else origin


def _words(file: Path, fields: Mapping[str, str], count: int) -> list[str]:
    """Returns the direction of each axis as text; an empty list if the header gives no directions."""
    text = fields.get("spacedirections", "")
    words = _WORD.findall(text)
    if text and (len(words) != count or _WORD.sub("", text).strip()):
        raise broken(file, f"its space directions are {text[:60]!r}")
    return words


def _vectors(file: Path, fields: Mapping[str, str], count: int) -> list[list[float] | None]:
    """Returns the direction of each axis, None for an axis without one; an empty list if the header gives no directions."""
    words = _words(file, fields, count)
    vectors = [None if word.lower() == "none" else _vector(file, "space directions", word) for word in words]
    return [None if vector is None or all(np.isnan(vector)) else vector for vector in vectors]


def _origin(file: Path, fields: Mapping[str, str]) -> list[float]:
    text = fields.get("spaceorigin", "")
    return _vector(file, "space origin", text) if text and text.lower() != "none" else []


def _vector(file: Path, what: str, text: str) -> list[float]:
    if not (text.startswith("(") and text.endswith(")")):
        raise broken(file, f"its {what} is {text[:40]!r}")
    return _numbers(file, what, text[1:-1].replace(",", " "), 3)


def _numbers(file: Path, what: str, text: str, count: int) -> list[float]:
    try:
        found = [float(word) for word in text.split()]
    except ValueError as error:
        raise broken(file, f"its {what} is {text[:40]!r}") from error
    if len(found) != count:
        raise broken(file, f"its {what} is {text[:40]!r}")
    return found


def _unit(file: Path, fields: Mapping[str, str], axes: Sequence[int]) -> float:
    """Returns the unit of length in mm; 1 if the header names no unit."""
    words = re.findall(r'"([^"]*)"', fields.get("spaceunits", ""))
    if not words and (units := re.findall(r'"([^"]*)"', fields.get("units", ""))):
        words = [units[n] for n in axes if n < len(units)]
    named = {word.strip().lower() for word in words} - {"", "???"}
    known = {_UNITS.get(word) for word in named}
    if None in known or len(known) > 1:
        raise broken(file, f"its units of length are {', '.join(sorted(named))[:40]}")
    return known.pop() or 1.0 if known else 1.0
