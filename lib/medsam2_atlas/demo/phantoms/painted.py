"""Paints synthetic intensities over a given label map, which gives a CT with known ground truth.

The organs' shapes and positions are those of the label map. Everything else comes from a synthetic patient: intensities, body,
bones, lungs and bowels. The synthetic patient is scaled and shifted to the label map's organs, and bent so that its spine is
behind the aorta and its ribs are around liver, spleen and kidneys.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.demo.phantoms.frame import BOTTOM, FAT, TOP
from medsam2_atlas.demo.phantoms.patient import Patient, Phase, draw_patient
from medsam2_atlas.demo.phantoms.render import Scan, render
from medsam2_atlas.demo.phantoms.shapes import Field
from medsam2_atlas.imaging.volume import Geometry, Volume, from_sitk, to_sitk

_TISSUES: dict[int, str | float] = {
    1: "spleen",
    2: "kidney",
    3: "kidney",
    4: 8.0,
    5: "wall",
    6: "liver",
    7: 30.0,
    8: "aorta",
    9: "vein",
    10: "pancreas",
    11: "adrenal",
    12: "adrenal",
    13: "wall",
    14: 8.0,
}
_SPACING = 3.0
_AROUND_MM = 12.0
_BEYOND_MM = 300.0
_MIN_ORGANS = 3
_STRETCH = (0.75, 1.35)
_FIXED = (1, 2, 3, 6, 11, 12)
"""Spleen, kidneys, liver, adrenal glands: their centres are landmarks, since bones and lungs surround them in all patients."""
_LONG = (8, 9)
"""Aorta and inferior vena cava: their centres on many slices are landmarks, since the spine is right behind them."""
_ENDS = (8, 9, 14)
"""Organs whose lower ends are landmarks: the vessels fork above the pelvis, and the bladder is on the pelvic floor."""
_LEVEL_MM, _BEND_GRID = 15.0, 10.0
_BEND_MM, _BEND_FADES = 45.0, 0.3
"""Standard deviation of a landmark's Gaussian weight in mm, and the constant weight of zero displacement far from landmarks."""


def deformed(labels: Volume, generator: np.random.Generator, amplitude: float = 8.0, stretch: float = 0.06) -> Volume:
    """Deforms a label map: stretches it along each axis, and bends it by a smooth random field.

    Args:
        labels: organ numbers `[z, y, x]`.
        generator: random generator of the deformation.
        amplitude: standard deviation of the displacement along each axis, in mm.
        stretch: standard deviation of the logarithm of each axis' stretch.

    Returns:
        The deformed label map `[z, y, x]`, with a spacing of 3 mm.
    """
    size = [max(2, round(n * s / _SPACING)) for n, s in zip(labels.geometry.size, labels.geometry.spacing, strict=True)]
    grid = sitk.Resample(
        labels.as_image(), size, sitk.Transform(), sitk.sitkNearestNeighbor, labels.geometry.origin, (_SPACING,) * 3,
        labels.geometry.direction,
    )  # fmt: skip
    image = from_sitk(grid, labels.source)
    points = _points(image.geometry)
    middle = points.mean(0)
    scale = np.exp(generator.normal(0, stretch, 3)).astype(np.float32)
    bend = np.stack([Field(generator, amplitude, (90, 220), 6)(points) for _ in range(3)], 1)
    index = (((points - middle) / scale + middle + bend) / _SPACING)[:, ::-1].T
    warped = ndimage.map_coordinates(image.array, index, order=0, mode="constant").reshape(image.array.shape)
    return image.with_array(warped)


def painted(labels: Volume, generator: np.random.Generator, phase: Phase | None = None) -> Volume:
    """Paints a CT on the grid of a label map.

    Args:
        labels: organ numbers `[z, y, x]`.
        generator: random generator of patient, texture and noise.
        phase: the contrast phase; a random one by default.

    Returns:
        The CT `[z, y, x]` in HU, float32.

    Raises:
        InputError: if the label map contains fewer than three organs, which is too few to place a body.
    """
    patient = draw_patient(generator)
    patient = patient if phase is None else replace(patient, phase=phase)
    background, below = _background(patient)
    real, organs = _centres(labels), _centres(below)
    known = sorted(set(real) & set(organs))
    if len(known) < _MIN_ORGANS:
        remedy = f"At least {_MIN_ORGANS} are needed to place the body."
        raise InputError(labels.source, f"contains {len(real)} organs.", remedy)
    scale, shift = np.ones(3), np.zeros(3)
    for axis in range(3):
        a, b = np.array([real[k][axis] for k in known]), np.array([organs[k][axis] for k in known])
        slope = np.clip(np.polyfit(a, b, 1)[0], *_STRETCH) if np.ptp(a) > 40 else 1.0
        scale[axis], shift[axis] = slope, b.mean() - slope * a.mean()
    stretched = sitk.AffineTransform(3)
    stretched.SetMatrix(np.diag(scale).ravel().tolist())
    stretched.SetTranslation(shift.tolist())
    bent = _bend(labels, below, scale, shift)
    blank, to_phantom = labels.as_image(), sitk.CompositeTransform([stretched, bent])  # the last one is applied first
    hu = sitk.GetArrayFromImage(sitk.Resample(background, blank, to_phantom, sitk.sitkLinear, -1000.0, sitk.sitkFloat32))
    return labels.with_array(_with_organs(hu, labels, patient, generator))


def _background(patient: Patient) -> tuple[sitk.Image, Volume]:
    """Returns the CT of a synthetic patient without the labelled organs, and the label map of these organs."""
    sx, sy, sz = patient.scale
    width, depth = 2 * (150 + patient.fat) * sx + 40, 300 * sy
    size = (round(width / _SPACING), round(depth / _SPACING), round((TOP - BOTTOM) * sz / _SPACING))
    scan = Scan(size, (_SPACING,) * 3, (-width / 2, -36 * sy - depth / 2, BOTTOM * sz))
    image, label = render(patient, scan)
    image[label > 0] = FAT
    beyond = round(_BEYOND_MM / _SPACING)  # long scans extend beyond the synthetic patient
    longer = np.pad(image, ((beyond, beyond), (0, 0), (0, 0)), mode="edge")
    x, y, z = scan.origin
    grid = Geometry((*size[:2], len(longer)), scan.spacing, (x, y, z - beyond * _SPACING))
    own = Geometry(size, scan.spacing, scan.origin)
    return to_sitk(longer, grid), Volume(label, own, own)


def _bend(labels: Volume, below: Volume, scale: np.ndarray, shift: np.ndarray) -> sitk.Transform:
    """Returns the smooth displacement that, with scaling and shift, maps landmarks to those of the synthetic patient."""
    places, moves = [], []
    real, own = _landmarks(labels), _landmarks(below)
    for name in sorted(real.keys() & own.keys()):
        places.append(real[name])
        moves.append((own[name] - (scale * real[name] + shift)) / scale)
    for k in _LONG:
        levels = _levels(below, k)
        for place in _levels(labels, k):
            offset = min((level - (scale * place + shift) for level in levels), key=lambda v: abs(v[2]), default=None)
            if offset is not None and abs(offset[2]) < _LEVEL_MM:
                places.append(place)
                moves.append(offset * [1, 1, 0] / scale)
    grid = labels.geometry
    coarse = Geometry(
        (max(2, round(grid.size[0] * grid.spacing[0] / _BEND_GRID) + 1),
         max(2, round(grid.size[1] * grid.spacing[1] / _BEND_GRID) + 1),
         max(2, round(grid.size[2] * grid.spacing[2] / _BEND_GRID) + 1)),
        (_BEND_GRID,) * 3, grid.origin, grid.direction,
    )  # fmt: skip
    field = np.zeros((*coarse.shape, 3))
    if places:
        index = np.stack(np.meshgrid(*[np.arange(n) for n in coarse.shape], indexing="ij")[::-1], -1)
        world = coarse.to_world(index.reshape(-1, 3))
        weights = np.exp(-((world[:, None] - np.array(places)[None]) ** 2).sum(-1) / (2 * _BEND_MM**2))
        field = (weights @ np.array(moves) / (weights.sum(1, keepdims=True) + _BEND_FADES)).reshape(field.shape)
    image = sitk.GetImageFromArray(field, isVector=True)
    image.SetSpacing(coarse.spacing)
    image.SetOrigin(coarse.origin)
    image.SetDirection(coarse.direction)
    return sitk.DisplacementFieldTransform(image)


def _landmarks(labels: Volume) -> dict[str, np.ndarray]:
    """Returns the landmarks (mm) that align two bodies: centres of `_FIXED` organs, and lower ends of `_ENDS`."""
    found = {f"middle {k}": middle for k, middle in _centres(labels).items() if k in _FIXED}
    for k in _ENDS:
        slices = np.flatnonzero((labels.array == k).any((1, 2)))
        if len(slices) and slices[0] > 0:
            found[f"end {k}"] = _middle_on(labels, k, int(slices[0]))
    return found


def _levels(labels: Volume, k: int) -> list[np.ndarray]:
    """Returns the centres (mm) of a long organ on slices at a distance of `_LEVEL_MM`, from the lowest slice."""
    slices = np.flatnonzero((labels.array == k).any((1, 2)))
    return [_middle_on(labels, k, int(z)) for z in slices[:: max(1, round(_LEVEL_MM / labels.geometry.spacing[2]))]]


def _middle_on(labels: Volume, k: int, z: int) -> np.ndarray:
    rows, columns = np.nonzero(labels.array[z] == k)
    return labels.geometry.to_world(np.array([columns.mean(), rows.mean(), z]))


def _points(grid: Geometry) -> np.ndarray:
    """Returns the voxels' positions along the grid's axes, `[n, 3]` (x, y, z) in mm from the first voxel, float32."""
    z, y, x = np.meshgrid(*[np.arange(n, dtype=np.float32) for n in grid.shape], indexing="ij")
    return np.stack([x, y, z], -1).reshape(-1, 3) * np.array(grid.spacing, np.float32)


def _centres(labels: Volume) -> dict[int, np.ndarray]:
    """Returns the centres (mm) of the organs' bounding boxes.

    Organs that touch the scan's first or last slice are excluded, unless that leaves too few organs.
    """
    inside: dict[int, np.ndarray] = {}
    cut: dict[int, np.ndarray] = {}
    for k, box in enumerate(ndimage.find_objects(labels.array), 1):
        if box is not None and k in _TISSUES:
            middle = np.array([(span.start + span.stop - 1) / 2 for span in box[::-1]])
            touches = box[0].start == 0 or box[0].stop == labels.array.shape[0]
            (cut if touches else inside)[k] = labels.geometry.to_world(middle)
    return inside if len(inside) >= 2 * _MIN_ORGANS else inside | cut


def _with_organs(hu: np.ndarray, labels: Volume, patient: Patient, generator: np.random.Generator) -> np.ndarray:
    """Paints the organs, tissue around them, soft edges, texture and noise over the body's HU `[z, y, x]`."""
    away = ndimage.distance_transform_edt(labels.array == 0, sampling=labels.geometry.spacing[::-1])
    hu[(away < _AROUND_MM) & (hu < -300)] = FAT
    points = _points(labels.geometry)
    lumps = Field(generator, 1.0, (35, 90), 8)(points).reshape(hu.shape)
    hu[(hu == FAT) & (lumps > 0.9)] = 30.0  # bowel and muscle between the organs
    for k in np.unique(labels.array[labels.array > 0]):
        tissue = _TISSUES.get(int(k), "prostate" if patient.sex == "male" else "uterus")
        hu[labels.array == k] = (patient.hu(tissue) if isinstance(tissue, str) else tissue) + generator.normal(0, 4)
    hu += np.where(hu > -300, Field(generator, 4.0, (15, 60), 6)(points).reshape(hu.shape), 0)
    soft = ndimage.gaussian_filter(hu, 0.6)
    grain = ndimage.gaussian_filter(generator.standard_normal(hu.shape, dtype=np.float32), 0.6)
    result: np.ndarray = np.clip(soft + grain * (patient.noise / grain.std()), -1024, 3071).astype(np.float32)
    return result
