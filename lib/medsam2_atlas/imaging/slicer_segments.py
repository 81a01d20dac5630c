"""Turns the segments of 3D Slicer into a label map on the grid of their image.

Only reader processes call this module; see `image_reading`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.decoding import Segment
from medsam2_atlas.imaging.decoding.header import broken
from medsam2_atlas.imaging.labels import OrganTable, organ_table
from medsam2_atlas.imaging.same_grid import NEAR
from medsam2_atlas.imaging.segment_names import listed, organ_coded, organ_named, remedy
from medsam2_atlas.imaging.volume import Geometry, Volume, from_sitk, to_sitk

_MAX_PAIRS = 10


def organ_map(
    file: Path, image: sitk.Image, segments: Sequence[Segment], like: Geometry | None, table: OrganTable | None = None
) -> Volume:
    """Returns the label map of a segmentation: `[z, y, x]` uint8 organ numbers in LPS orientation.

    The name of a segment identifies its organ; if no person has named it, its code does. If segments overlap, the last one gets
    the voxel. `remarks` report overlaps, and voxels that are dropped.

    Args:
        file: the segmentation, for messages.
        image: the voxels of the segmentation; one value per voxel and layer.
        segments: the segments in the file's header.
        like: grid of the image in LPS orientation, to which the label map is padded; None to keep the file's own grid, which
            may be cropped to the segments.
        table: the organ table; `configs/labels.yaml` by default.

    Raises:
        InputError: a segment with voxels is not an organ, values or layers do not match the header, the grid is not the
            image's, or the segmentation has no voxels and `like` is None.
    """
    table = table or organ_table()
    remarks: list[str] = []
    if image.GetDimension() != 3:
        raise InputError(file, f"has {image.GetDimension()} dimensions, not 3 and layers.", "Save it again in 3D Slicer.")
    if image.GetSize() == (1, 1, 1):  # Slicer writes one voxel for an empty segmentation
        if like is None:
            raise InputError(file, "is empty: it contains no segment with voxels.", "Draw at least one organ.")
        return Volume(np.zeros(like.shape, np.uint8), like, like, str(file))
    owners, counts, strays = _owners(file, image, segments, remarks)
    organs = [_organ_of(segment, table) for segment in segments]
    strange = [s.name for s, organ, count in zip(segments, organs, counts, strict=True) if count and not organ]
    if strange:
        raise InputError(file, f"has segments that are not organs: {listed(strange)}.", remedy(table))
    remarks += _combined(segments, organs, counts, table)
    if strays:
        remarks.append(f"{strays} voxels belong to no segment; they are background.")
    array = np.array([0, *organs], np.uint8)[owners]
    found = from_sitk(to_sitk(array, Geometry.of(image)), str(file))
    found = replace(found, array=np.ascontiguousarray(found.array))
    if like is not None:
        found = _placed(file, found, like, remarks)
    return replace(found, remarks=tuple(remarks))


def _organ_of(segment: Segment, table: OrganTable) -> int:
    named = organ_named(segment.name, table)
    return named or (organ_coded(segment.code, [segment.modifier], table) if segment.unnamed else 0)


def _combined(segments: Sequence[Segment], organs: Sequence[int], counts: np.ndarray, table: OrganTable) -> list[str]:
    """Returns a remark for each organ that consists of several nonempty segments."""
    found = []
    for organ in sorted({*organs}):
        names = [s.name for s, own, count in zip(segments, organs, counts, strict=True) if own == organ and count]
        if len(names) > 1:
            found.append(f"{table[organ].display} is combined from the segments {listed(names)}.")
    return found


def _owners(
    file: Path, image: sitk.Image, segments: Sequence[Segment], remarks: list[str]
) -> tuple[np.ndarray, np.ndarray, int]:
    """Assigns each voxel to a segment, and adds remarks on overlaps.

    Returns:
        The segment of each voxel, `[z, y, x]` uint16, counted from 1; 0 for none. Then the number of voxels of each segment
        before overlaps are resolved. Then the number of voxels with a value that belongs to no segment.
    """
    voxels = sitk.GetArrayViewFromImage(image)
    voxels = voxels[..., None] if voxels.ndim == 3 else voxels
    layers, kind = voxels.shape[-1], voxels.dtype
    owners = np.zeros(voxels.shape[:3], np.uint16)
    counts, strays = np.zeros(len(segments) + 1, np.int64), 0
    shared: dict[tuple[int, int], int] = {}
    for layer, of_value in enumerate(_tables(file, segments, layers, kind)):
        held = np.zeros(len(of_value), np.int64)
        for z, owner in enumerate(owners):  # slice by slice: counting takes eight bytes per voxel
            values = _indices(file, voxels[z, ..., layer], len(of_value) - 1)
            held += np.bincount(values.ravel(), minlength=len(of_value))
            here = of_value[values]
            if layer:
                _count_shared(shared, owner, here, len(counts))
            np.maximum(owner, here, out=owner)
        np.add.at(counts, of_value, held)
        strays += int(held[1:][of_value[1:] == 0].sum())
    names = [repr(segment.name[:40]) for segment in segments]
    for (first, last), size in sorted(shared.items())[:_MAX_PAIRS]:
        remarks.append(f"{names[first - 1]} and {names[last - 1]} share {size} voxels, which are {names[last - 1]}.")
    if len(shared) > _MAX_PAIRS:
        remarks.append(f"{len(shared) - _MAX_PAIRS} more pairs of segments share voxels; the later segment gets them.")
    return owners, counts[1:], strays


def _count_shared(shared: dict[tuple[int, int], int], owner: np.ndarray, here: np.ndarray, base: int) -> None:
    """Adds the number of voxels that two segments share on a slice to `shared`; its keys are (earlier, later segment)."""
    both = (owner > 0) & (here > 0)
    if both.any():
        first, last = np.minimum(owner[both], here[both]), np.maximum(owner[both], here[both])
        pairs, sizes = np.unique(first.astype(np.int64) * base + last, return_counts=True)
        for pair, size in zip(pairs.tolist(), sizes.tolist(), strict=True):
            key = divmod(pair, base)
            shared[key] = shared.get(key, 0) + size


def _tables(file: Path, segments: Sequence[Segment], layers: int, kind: np.dtype) -> list[np.ndarray]:
    """Returns a lookup table for each layer: the segment of each value, counted from 1; 0 for none."""
    if kind.kind not in "iuf":
        raise InputError(file, f"has voxels of the type {kind}.", "Save it again in 3D Slicer.")
    tables: list[dict[int, int]] = [{} for _ in range(layers)]
    for number, segment in enumerate(segments, 1):
        if segment.layer >= layers:
            raise broken(file, f"its segment {segment.name[:40]!r} is in layer {segment.layer}, but it has {layers} layers")
        if kind.kind in "iu" and segment.value > np.iinfo(kind).max:
            raise broken(file, f"its segment {segment.name[:40]!r} has the value {segment.value}, which {kind} cannot hold")
        other = tables[segment.layer].setdefault(segment.value, number)
        if other != number:
            problem = f"its segments {segments[other - 1].name[:40]!r} and {segment.name[:40]!r} have the same layer and value"
            raise broken(file, problem)
    found = []
    for of_value in tables:
        # The last entry represents all other values, unless the table has an entry for every value.
        size = np.iinfo(kind).max + 1 if kind.kind == "u" and kind.itemsize < 4 else max(of_value, default=0) + 2
        array = np.zeros(size, np.uint16)
        for value, number in of_value.items():
            array[value] = number
        found.append(array)
    return found


def _indices(file: Path, plane: np.ndarray, highest: int) -> np.ndarray:
    """Returns values as indices; values outside of 0 to `highest` become `highest`."""
    if plane.dtype.kind == "u" and np.iinfo(plane.dtype).max <= highest:
        return plane
    if plane.dtype.kind == "f" and not (np.isfinite(plane).all() and (plane == np.rint(plane)).all()):
        raise InputError(
            file, "is not a label map: it has values that are not whole numbers.", "Save a label map or a segmentation."
        )
    return np.where((plane < 0) | (plane > highest), highest, plane).astype(np.int64)


def _placed(file: Path, found: Volume, like: Geometry, remarks: list[str]) -> Volume:
    """Returns a label map padded or cropped to the grid of its image."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in found.geometry.size])).reshape(3, -1).T
    places = like.to_index(found.geometry.to_world(corners))
    start = np.rint(places[0]).astype(np.int64)
    off = np.abs(places - corners - start).max()
    if off > NEAR:
        own, other = found.geometry, like
        raise InputError(
            file,
            f"has a different grid from its image, even after padding: its voxels are up to {off:.2g} voxels away from the "
            f"image's. Its spacing is {_short(own.spacing)} mm, the image's {_short(other.spacing)} mm; its first voxel is at "
            f"{_short(own.origin)} mm, the image's at {_short(other.origin)} mm.",
            "Choose the CT as source volume of the segmentation in 3D Slicer, and save it again.",
        )
    array = np.zeros(like.shape, np.uint8)
    low = np.maximum(start, 0)
    high = np.minimum(start + found.geometry.size, like.size)
    if (low < high).all():
        to = tuple(slice(int(a), int(b)) for a, b in zip(low[::-1], high[::-1], strict=True))
        of = tuple(slice(int(a), int(b)) for a, b in zip((low - start)[::-1], (high - start)[::-1], strict=True))
        array[to] = found.array[of]
    total, kept = np.count_nonzero(found.array), np.count_nonzero(array)
    if total and not kept:
        raise InputError(file, "is outside of its image.", "Choose the segmentation of this CT.")
    if total > kept:
        remarks.append(f"{total - kept} voxels of segments are outside of the image; they are dropped.")
    return Volume(array, like, like, str(file))


def _short(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{v:.4g}" for v in values) + ")"
