"""Turns the segments of 3D Slicer into a label map, on the grid of the image that they were drawn on.

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
    """Returns the label map of a segmentation in LPS orientation, unsigned 8-bit, with the organs' numbers.

    A segment is identified by its name; one that no person has named, by its code. A voxel of several segments belongs to the
    last one. `remarks` tell of overlaps, and of voxels that are left out.

    Args:
        file: for messages.
        image: its voxels; one value per voxel for each layer.
        segments: from its header.
        like: grid of the image in LPS orientation, on which the label map is put; None keeps the file's own, which may be
            cropped to the segments.
        table: the organs; those of `configs/labels.yaml` by default.

    Raises:
        InputError: segments that are no organs and not empty, values or layers that do not fit, no voxels and no grid, or
            another grid than the image's.
    """
    table = table or organ_table()
    remarks: list[str] = []
    if image.GetDimension() != 3:
        raise InputError(file, f"has {image.GetDimension()} dimensions, not 3 and layers.", "Save it again in 3D Slicer.")
    if image.GetSize() == (1, 1, 1):  # Slicer writes one voxel where there are none
        if like is None:
            raise InputError(file, "is empty: it holds no segment with voxels.", "Draw at least one organ.")
        return Volume(np.zeros(like.shape, np.uint8), like, like, str(file))
    owners, counts, strays = _owners(file, image, segments, remarks)
    organs = [_organ_of(segment, table) for segment in segments]
    strange = [s.name for s, organ, count in zip(segments, organs, counts, strict=True) if count and not organ]
    if strange:
        raise InputError(file, f"has segments that are no organs: {listed(strange)}.", remedy(table))
    remarks += _put_together(segments, organs, counts, table)
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


def _put_together(segments: Sequence[Segment], organs: Sequence[int], counts: np.ndarray, table: OrganTable) -> list[str]:
    """Returns a remark for each organ of several segments that are not empty."""
    found = []
    for organ in sorted({*organs}):
        names = [s.name for s, own, count in zip(segments, organs, counts, strict=True) if own == organ and count]
        if len(names) > 1:
            found.append(f"{table[organ].display} is put together of the segments {listed(names)}.")
    return found


def _owners(
    file: Path, image: sitk.Image, segments: Sequence[Segment], remarks: list[str]
) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns which segment has each voxel `[z, y, x]`, counted from 1 and 0 for none; how many voxels each segment had before
    others took some; and how many voxels with a value belong to none. Adds remarks on overlaps."""
    voxels = sitk.GetArrayViewFromImage(image)
    voxels = voxels[..., None] if voxels.ndim == 3 else voxels
    layers, kind = voxels.shape[-1], voxels.dtype
    owners = np.zeros(voxels.shape[:3], np.uint16)
    counts, strays = np.zeros(len(segments) + 1, np.int64), 0
    shared: dict[tuple[int, int], int] = {}
    for layer, of_value in enumerate(_tables(file, segments, layers, kind)):
        held = np.zeros(len(of_value), np.int64)
        for z, owner in enumerate(owners):  # slice by slice: counting takes eight bytes a voxel
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
        remarks.append(f"{len(shared) - _MAX_PAIRS} more pairs of segments share voxels; the later segment has them.")
    return owners, counts[1:], strays


def _count_shared(shared: dict[tuple[int, int], int], owner: np.ndarray, here: np.ndarray, base: int) -> None:
    """Adds to `shared` how many voxels of a slice two segments share, by the earlier and the later one."""
    both = (owner > 0) & (here > 0)
    if both.any():
        first, last = np.minimum(owner[both], here[both]), np.maximum(owner[both], here[both])
        pairs, sizes = np.unique(first.astype(np.int64) * base + last, return_counts=True)
        for pair, size in zip(pairs.tolist(), sizes.tolist(), strict=True):
            key = divmod(pair, base)
            shared[key] = shared.get(key, 0) + size


def _tables(file: Path, segments: Sequence[Segment], layers: int, kind: np.dtype) -> list[np.ndarray]:
    """Returns, for each layer, the segment that each value stands for, counted from 1."""
    if kind.kind not in "iuf":
        raise InputError(file, f"has voxels of the type {kind}.", "Save it again in 3D Slicer.")
    tables: list[dict[int, int]] = [{} for _ in range(layers)]
    for number, segment in enumerate(segments, 1):
        if segment.layer >= layers:
            raise broken(file, f"its segment {segment.name[:40]!r} lies in layer {segment.layer}, and it has {layers}")
        if kind.kind in "iu" and segment.value > np.iinfo(kind).max:
            raise broken(file, f"its segment {segment.name[:40]!r} has the value {segment.value}, which {kind} cannot hold")
        other = tables[segment.layer].setdefault(segment.value, number)
        if other != number:
            problem = f"its segments {segments[other - 1].name[:40]!r} and {segment.name[:40]!r} have the same layer and value"
            raise broken(file, problem)
    found = []
    for of_value in tables:
        # The last entry stands for all other values, unless there is one for every value.
        size = np.iinfo(kind).max + 1 if kind.kind == "u" and kind.itemsize < 4 else max(of_value, default=0) + 2
        array = np.zeros(size, np.uint16)
        for value, number in of_value.items():
            array[value] = number
        found.append(array)
    return found


def _indices(file: Path, plane: np.ndarray, highest: int) -> np.ndarray:
    """Returns values as indices; others than 0 to `highest` become `highest`."""
    if plane.dtype.kind == "u" and np.iinfo(plane.dtype).max <= highest:
        return plane
    if plane.dtype.kind == "f" and not (np.isfinite(plane).all() and (plane == np.rint(plane)).all()):
        raise InputError(file, "is not a label map: it has values that are not whole numbers.")
    return np.where((plane < 0) | (plane > highest), highest, plane).astype(np.int64)


def _placed(file: Path, found: Volume, like: Geometry, remarks: list[str]) -> Volume:
    """Returns a label map on the grid of its image, which may be larger or smaller."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in found.geometry.size])).reshape(3, -1).T
    places = like.to_index(found.geometry.to_world(corners))
    start = np.rint(places[0]).astype(np.int64)
    off = np.abs(places - corners - start).max()
    if off > NEAR:
        own, other = found.geometry, like
        raise InputError(
            file,
            f"lies on another grid than its image, also when padded: its voxels are up to {off:.2g} voxels away from the "
            f"image's. Spacing {_short(own.spacing)} mm, the image's {_short(other.spacing)} mm; first voxel at "
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
        raise InputError(file, "lies outside of its image.", "Choose the segmentation of this CT.")
    if total > kept:
        remarks.append(f"{total - kept} voxels of segments lie outside of the image; they are left out.")
    return Volume(array, like, like, str(file))


def _short(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{v:.4g}" for v in values) + ")"
