"""Fits a regular grid to the slices of a series, and checks that the slices lie on it.

Scanners and archives write positions with few decimals, or with errors of some hundredths of a millimetre. So each slice is
checked by its distance from the line of even steps that fits all slices best (least squares), not by its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.dicom.series.slices import Slice
from medsam2_atlas.dicom.texts import line
from medsam2_atlas.imaging.decoding.grids import MAX_SKEW, skew_degrees, straightened
from medsam2_atlas.imaging.volume import Geometry

_OFF_STEPS = 0.2
"""Max distance of a slice from its grid position, in steps. If a slice is missing, some slice is farther off."""
_ROUNDED_MM = 0.6
"""Max distance of a position rounded to whole mm from its grid position: 0.5 mm, and the error of the fit."""
_DOUBLE_MM = 0.01
"""Slices closer than this have the same position."""
_DRIFT_MM = 0.1
"""Max sideways drift that is ignored, over the whole series."""
_EXACT_MM = 1e-3
"""Positions are exact up to this error."""
_EXACT_DEGREES, _REMARK_DEGREES = 1e-3, 0.01
"""Max deviation of the axes from right angles that stays unchanged, and max deviation that is corrected without a remark."""
_AGAIN = "Export the series again, with its geometry."
_UNIT = 0.1
_SAME_SPACING, _SAME_DIRECTION = 1e-4, 2e-3


@dataclass(frozen=True)
class FittedSlices:
    """The slices in the order of the volume, its grid, and remarks to people about corrected positions."""

    slices: tuple[Slice, ...]
    grid: Geometry
    remarks: tuple[str, ...]


def fit_grid(path: Path, slices: Sequence[Slice]) -> FittedSlices:
    """Orders slices along the normal of their planes and fits a grid to them.

    Args:
        path: the path of the series, for messages.
        slices: the slices in any order.

    Raises:
        InputError: the slices differ in orientation, spacing or size; the gantry was tilted; or slices are missing,
            duplicate or uneven.
    """
    if len(slices) < 2:
        raise InputError(path, "contains one slice: a volume needs at least two.", "Choose the whole series.")
    _check_alike(path, slices)
    remarks: list[str] = []
    axes = _plane_axes(path, slices[0], remarks)
    places = np.array([part.position for part in slices])
    order = np.argsort(places @ axes[:, 2], kind="stable")
    slices, places = [slices[n] for n in order], places[order]
    start, move = _line(path, slices, places, axes[:, 2], remarks)
    step = float(np.linalg.norm(move))
    drift = np.linalg.norm(move / step - axes[:, 2]) * step * (len(slices) - 1)
    if drift > _DRIFT_MM:
        axes = np.stack([axes[:, 0], axes[:, 1], move / step], 1)
        axes = _mended(axes, skew_degrees(axes), remarks)
    rows, columns = slices[0].size
    spacing = (slices[0].spacing[1], slices[0].spacing[0], step)
    grid = Geometry((columns, rows, len(slices)), spacing, tuple(start.tolist()), tuple(axes.ravel().tolist()))
    return FittedSlices(tuple(slices), grid, tuple(remarks))


def _check_alike(path: Path, slices: Sequence[Slice]) -> None:
    first = slices[0]
    for part in slices:
        if part.size != first.size:
            what = f"sizes: {_size(first)} and {_size(part)}"
        elif not np.allclose(part.spacing, first.spacing, rtol=_SAME_SPACING, atol=0):
            what = f"pixel spacings: {_text(first.spacing, 4)} and {_text(part.spacing, 4)} mm"
        elif not np.allclose(part.orientation, first.orientation, rtol=0, atol=_SAME_DIRECTION):
            raise InputError(
                path,
                f"contains slices of different orientation: {_text(first.orientation, 3)} and {_text(part.orientation, 3)}.",
                "Leave scouts and other planes out; export one series.",
            )
        else:
            continue
        raise InputError(path, f"contains slices of different {what}.", "Give a folder with the slices of exactly one series.")


def _plane_axes(path: Path, part: Slice, remarks: list[str]) -> np.ndarray:
    """Returns the directions of a row, of a column and of the normal as an orthonormal matrix `[3, 3]`, one per column."""
    along, down = np.array(part.orientation[:3]), np.array(part.orientation[3:])
    lengths = np.linalg.norm(along), np.linalg.norm(down)
    if max(abs(length - 1) for length in lengths) > _UNIT:
        raise InputError(
            path, f"has ImageOrientationPatient {_text(part.orientation, 6)}, which are not directions of length 1.", _AGAIN
        )
    along, down = along / lengths[0], down / lengths[1]
    normal = np.cross(along, down)
    axes = np.stack([along, down, normal / max(float(np.linalg.norm(normal)), _UNIT)], 1)
    skew = skew_degrees(axes)
    if skew > MAX_SKEW:
        raise InputError(
            path,
            f"has rows and columns that are not at right angles (ImageOrientationPatient): "
            f"they deviate by {skew:.2g}°, more than {MAX_SKEW}°.",
            _AGAIN,
        )
    return _mended(axes, skew, remarks)


def _mended(axes: np.ndarray, skew: float, remarks: list[str]) -> np.ndarray:
    if skew < _EXACT_DEGREES:
        return axes
    if skew > _REMARK_DEGREES:
        remarks.append(f"Its axes deviated by {skew:.2g}° from right angles; they were straightened.")
    return straightened(axes)


def _line(
    path: Path, slices: Sequence[Slice], places: np.ndarray, normal: np.ndarray, remarks: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first slice's position and the step to the next slice that fit all slices best, `[3]` each, in mm.

    Args:
        path: the path of the series, for messages.
        slices: the slices, in order along the normal.
        places: their positions, `[slices, 3]` in mm.
        normal: the normal of their planes, `[3]`.
        remarks: receives remarks.
    """
    heights = places @ normal
    steps = np.diff(heights)
    if steps.min() < _DOUBLE_MM:
        at = int(steps.argmin())
        first, second = (_name(path, part) for part in slices[at : at + 2])
        raise InputError(
            path,
            f"contains more than one slice at {_text(places[at])} mm: {first} and {second}.",
            "It may contain several phases or series; export one of them.",
        )
    start, move = places[0], (places[-1] - places[0]) / (len(places) - 1)
    away = places - (start + np.arange(len(places))[:, None] * move)
    if np.abs(away).max() > _EXACT_MM:
        start, move = _least_squares(places)
        away = places - (start + np.arange(len(places))[:, None] * move)
    step = float(move @ normal)
    uneven = float(np.abs(away @ normal).max())
    if _skipped(slices, steps) or (uneven > _OFF_STEPS * step and not _rounded(slices, places, normal, uneven, step)):
        usual = float(np.median(steps))
        gaps = np.flatnonzero(steps > 1.1 * usual)
        where = f", first after the slice at {_text(places[gaps[0]])} mm" if len(gaps) else ""
        raise InputError(
            path,
            f"slices are {steps.min():.2f} to {steps.max():.2f} mm apart: some are missing or duplicated{where}.",
            "Export the whole series again.",
        )
    _check_straight(path, slices, places, away, move, normal)
    off = float(np.linalg.norm(away, axis=1).max())
    if off > 0.01 * step:
        remarks.append(f"Its slices lie up to {off:.2g} mm from even steps of {step:.4g} mm; they are treated as even.")
    return start, move


def _check_straight(
    path: Path, slices: Sequence[Slice], places: np.ndarray, away: np.ndarray, move: np.ndarray, normal: np.ndarray
) -> None:
    """Checks that no slice is shifted sideways; `away` is each slice's shift from its grid position, `[slices, 3]` in mm."""
    step = float(move @ normal)
    drift = float(np.linalg.norm(move - step * normal))
    angle = np.degrees(np.arctan2(drift, step))
    if drift * (len(places) - 1) > _DRIFT_MM and angle > MAX_SKEW:
        raise InputError(
            path,
            f"was scanned with a tilted gantry ({angle:.1f}°).",
            "Have the scanner's software reformat it to a straight volume.",
        )
    aside = np.linalg.norm(away - np.outer(away @ normal, normal), axis=1)
    if aside.max() > max(_DRIFT_MM, *slices[0].spacing):
        worst = int(aside.argmax())
        raise InputError(
            path,
            f"has slices that are shifted sideways: the one at {_text(places[worst])} mm is {aside.max():.1f} mm off.",
            "It may contain several reconstructions; export one of them.",
        )


def _rounded(slices: Sequence[Slice], places: np.ndarray, normal: np.ndarray, off: float, step: float) -> bool:
    """Returns whether rounding to whole mm explains that slices lie up to `off` mm from even steps.

    A missing slice looks the same in rounded positions, so the scanner's own slice numbers must be consecutive, too.
    """
    if np.abs(places - np.rint(places)).max() > _EXACT_MM or off > min(0.5 * step, _ROUNDED_MM * float(np.abs(normal).sum())):
        return False
    numbers = [part.number for part in slices]
    if None in numbers:
        return False
    return set(np.diff(np.array(numbers))) in ({1}, {-1})


def _skipped(slices: Sequence[Slice], steps: np.ndarray) -> bool:
    """Returns whether the scanner's slice numbers have gaps exactly where steps are longer.

    If every third slice is missing, no slice lies far from even steps; only the numbers show it.
    """
    numbers = [part.number for part in slices]
    if None in numbers:
        return False
    moves = np.diff(np.array(numbers))
    jumps = np.abs(moves)
    longer = jumps > jumps.min()
    if abs(np.sign(moves).sum()) < len(moves) or not longer.any():
        return False
    return bool(steps[longer].min() > 1.5 * steps[~longer].max())


def _least_squares(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the start and the step of the line of even steps that fits positions `[slices, 3]` best."""
    index = np.arange(len(places)) - (len(places) - 1) / 2
    move = index @ (places - places.mean(0)) / (index @ index)
    return places.mean(0) + index[0] * move, move


def _name(path: Path, part: Slice) -> str:
    file = line(part.file.relative_to(path) if part.file.is_relative_to(path) else part.file.name, 120)
    return file if part.frame is None else f"frame {part.frame + 1} of {file}"


def _size(part: Slice) -> str:
    return f"{part.size[1]} × {part.size[0]}"


def _text(values: Sequence[float], digits: int = 1) -> str:
    return "(" + ", ".join(f"{v:.{digits}f}" for v in values) + ")"
