"""Images and their geometry: the only place that knows about axes, orientations and files.

The contract that everything else relies on: arrays are indexed `[z, y, x]`; spacing, origin, points and indices of
points are (x, y, z); world coordinates are millimetres in LPS (+x left, +y posterior, +z superior). A `Volume` is held
in the LPS orientation, that is, its x axis runs nearest to the patient's left, y to posterior, z to superior. An
oblique volume keeps its own axes: "nearest" is all that is asked.

SimpleITK is imported by the functions that convert or write images. Reading needs none of it: reader processes decode files.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.files import replacing
from medsam2_atlas.imaging.decoding import is_segmentation, run_task
from medsam2_atlas.imaging.kinds import SUFFIXES
from medsam2_atlas.imaging.same_grid import on_grid

if TYPE_CHECKING:
    import SimpleITK as sitk

    from medsam2_atlas.imaging.decoding.header import Header

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Geometry:
    """A voxel grid in the world: size (x, y, z), spacing in mm, origin in mm, direction `3 x 3` (columns are axes)."""

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: tuple[float, ...] = (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)

    def __post_init__(self) -> None:
        # Plain numbers: keys of kept registrations contain a geometry's text, which for NumPy's numbers differs by its version.
        for name in ("size", "spacing", "origin", "direction"):
            plain = tuple(value.item() if isinstance(value, np.generic) else value for value in getattr(self, name))
            object.__setattr__(self, name, plain)
        if min(self.size) < 1 or min(self.spacing) <= 0 or not np.isfinite([*self.spacing, *self.origin]).all():
            raise ValueError(f"not a voxel grid: size {self.size}, spacing {self.spacing}, origin {self.origin}")

    @classmethod
    def of(cls, image: sitk.Image) -> Geometry:
        """Returns the grid of a SimpleITK image."""
        return cls(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())

    @classmethod
    def parse(cls, content: Mapping[str, Any]) -> Geometry:
        """Returns the grid of a dictionary that `dataclasses.asdict` made, such as one that comes from JSON.

        Raises:
            KeyError, TypeError, ValueError: it is no grid.
        """
        return cls(*(tuple(content[key]) for key in ("size", "spacing", "origin", "direction")))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of an array on this grid, `(z, y, x)`."""
        return self.size[::-1]

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel in millilitres."""
        return float(np.prod(self.spacing)) / 1000

    @property
    def matrix(self) -> np.ndarray:
        """Index (x, y, z) to world (mm), `[3, 3]`; add the origin."""
        return np.asarray(self.direction).reshape(3, 3) * np.asarray(self.spacing)

    def to_world(self, index: np.ndarray) -> np.ndarray:
        """World coordinates (mm) of indices `[..., 3]` in (x, y, z)."""
        result: np.ndarray = np.asarray(index, float) @ self.matrix.T + np.asarray(self.origin)
        return result

    def to_index(self, world: np.ndarray) -> np.ndarray:
        """Continuous indices `[..., 3]` in (x, y, z) of world coordinates (mm)."""
        result: np.ndarray = (np.asarray(world, float) - np.asarray(self.origin)) @ np.linalg.inv(self.matrix).T
        return result

    def matches(self, other: Geometry, tolerance: float = 1e-3) -> bool:
        """Returns whether two grids have the same voxels, to within `tolerance` mm at their corners."""
        corners = np.array([[0, 0, 0], [n - 1 for n in self.size]], float)
        corners = np.concatenate([corners, np.diag([n - 1.0 for n in self.size])])
        return self.size == other.size and bool(
            np.abs(self.to_world(corners) - other.to_world(corners)).max() <= max(tolerance, 1e-3 * min(self.spacing))
        )


@dataclass(frozen=True)
class Volume:
    """An image in LPS orientation, and the grid of the file that it came from.

    Attributes:
        array: `[z, y, x]`; HU for CTs, organ numbers for label maps.
        geometry: the grid of `array`.
        file_geometry: the grid in the file; results go back to it.
        source: the file, for messages.
        hu: how the values of a CT became HU, for reports; None if nobody looked. See `hounsfield`.
        remarks: what was mended while the file was read, such as units of length; sentences for people, without the file's
            name.
    """

    array: np.ndarray
    geometry: Geometry
    file_geometry: Geometry
    source: str = "image"
    hu: Mapping[str, Any] | None = None
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.array.shape != self.geometry.shape:
            raise ValueError(f"array {self.array.shape} does not fit the grid {self.geometry.shape}")

    def with_array(self, array: np.ndarray) -> Volume:
        """Another array on the same grid."""
        return replace(self, array=array)

    @cached_property
    def digest(self) -> str:
        """Twenty digits that tell voxels and grid from any others."""
        digest = hashlib.blake2b(np.ascontiguousarray(self.array).data, digest_size=10)
        digest.update(repr((self.array.dtype.str, self.geometry)).encode())
        return digest.hexdigest()

    def as_image(self) -> sitk.Image:
        """Returns the array as a SimpleITK image in LPS orientation."""
        return to_sitk(self.array, self.geometry)

    def restored(self) -> sitk.Image:
        """Returns the array on exactly the grid of the file it came from."""
        import SimpleITK as sitk

        code = _orientation(self.file_geometry.direction)
        image = sitk.DICOMOrient(self.as_image(), code)
        if image.GetSize() != tuple(self.file_geometry.size):
            raise ValueError(f"{self.source}: could not go back from LPS to {code}")
        return to_sitk(sitk.GetArrayFromImage(image), self.file_geometry)

    def to_file_index(self, index: np.ndarray) -> np.ndarray:
        """Voxel indices (x, y, z) in the file's own axes of indices (x, y, z) of this volume."""
        result: np.ndarray = np.rint(self.file_geometry.to_index(self.geometry.to_world(index))).astype(int)
        return result

    @property
    def slice_axis_in_file(self) -> int:
        """Which of the file's axes (0 x, 1 y, 2 z) the axial slices are counted along."""
        step = self.to_file_index(np.array([0, 0, 1])) - self.to_file_index(np.array([0, 0, 0]))
        return int(np.abs(step).argmax())


def to_sitk(array: np.ndarray, geometry: Geometry) -> sitk.Image:
    """Returns an array `[z, y, x]` on a grid as a SimpleITK image."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(array)
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    return image


def from_sitk(image: sitk.Image, source: str = "image") -> Volume:
    """Returns a volume from a three-dimensional SimpleITK image of any orientation."""
    import SimpleITK as sitk

    upright = sitk.DICOMOrient(image, "LPS")
    return Volume(sitk.GetArrayFromImage(upright), Geometry.of(upright), Geometry.of(image), source)


def read_volume(path: str | Path) -> Volume:
    """Reads a CT: NIfTI, NRRD, MHA or a DICOM series (its folder, or one of its files); float32 HU.

    A reader process decodes it.

    Raises:
        InputError: not readable, not three-dimensional, fewer than two slices, or values that are not finite.
    """
    return _decoded("volume", Path(path))


def read_grid(path: str | Path) -> Geometry:
    """Returns the grid of an image in LPS orientation, from its header alone if it is a file. Read in a reader process.

    Raises:
        InputError: not readable, or not three-dimensional.
    """
    path = Path(path).absolute()
    content, _ = run_task("grid", path, path=str(path))
    return Geometry.parse(content["geometry"])


def read_labels(path: str | Path, like: Volume | None = None, *, image: str | Path | None = None) -> Volume:
    """Reads a label map as unsigned 8-bit; on exactly its image's grid where given. Decoded in a reader process.

    Values within 0.001 of whole numbers are rounded. A grid that differs from the image's by less than a tenth of a voxel at
    every corner becomes the image's. `remarks` tell of both.

    The segments of a segmentation of 3D Slicer become organ numbers by their names, see `segment_names`. Slicer crops
    segmentations: they are padded to the grid of the image, to within a tenth of a voxel. Without an image, they keep their own
    grid. `remarks` tell of segments that overlap.

    Args:
        path: of the label map.
        like: its image.
        image: file or folder of its image, whose voxels are not needed; in place of `like`.

    Raises:
        InputError: not readable, values that are not whole numbers from 0 to 255, another grid than the image's, or segments
            that are no organs.
    """
    grid = like.geometry if like is not None else read_grid(image) if image is not None else None
    if is_segmentation(Path(path)):
        found = _decoded("labels", Path(path), like=None if grid is None else asdict(grid))
        return found if like is None else replace(found, file_geometry=like.file_geometry)
    found = _decoded("labels", Path(path))
    if grid is None:
        return found
    return on_grid(found, grid, grid, str(image)) if like is None else on_grid(found, grid, like.file_geometry, like.source)


def write_volume(volume: Volume, path: str | Path, *, compress: bool = True) -> None:
    """Writes a volume on the grid of the file it came from; the suffix chooses the format.

    Raises:
        InputError: a suffix that is not one of `SUFFIXES`.
        StorageError: the folder does not exist.
    """
    import SimpleITK as sitk

    path = Path(path)
    if not path.name.endswith(SUFFIXES):  # in lower case: ITK crashes on others
        raise InputError(path, "cannot be written: its suffix names no image format.", f"End it in {', '.join(SUFFIXES)}.")
    with replacing(path) as part:
        sitk.WriteImage(volume.restored(), str(part), useCompression=compress)


def grid_of_header(path: Path, header: Header) -> Geometry:
    """Returns the grid of a file, as its checked header gives it.

    Raises:
        InputError: the image has not three axes.
    """
    size, grid = header.axes, header.grid
    if len(size) != 3 or grid is None:
        raise InputError(path, f"has {len(size)} dimensions, not 3: {size}.", "Choose one phase, or the whole volume.")
    return Geometry((size[0], size[1], size[2]), grid.spacing, grid.origin, grid.direction)


def upright(grid: Geometry) -> Geometry:
    """Returns a grid with its axes turned to LPS, as DICOMOrient does it, without an image of that size."""
    import SimpleITK as sitk

    turn = sitk.DICOMOrientImageFilter()
    turn.SetDesiredCoordinateOrientation("LPS")
    turn.Execute(to_sitk(np.zeros((1, 1, 1), np.uint8), grid))
    order, flipped = list(turn.GetPermuteOrder()), np.array(turn.GetFlipAxes())
    nx, ny, nz = (grid.size[axis] for axis in order)
    sx, sy, sz = (grid.spacing[axis] for axis in order)
    corner = np.zeros(3)
    corner[order] = np.where(flipped, np.array([nx, ny, nz]) - 1, 0)
    ox, oy, oz = grid.to_world(corner).tolist()
    axes = np.asarray(grid.direction).reshape(3, 3)[:, order] * np.where(flipped, -1, 1)
    return Geometry((nx, ny, nz), (sx, sy, sz), (ox, oy, oz), tuple(axes.ravel().tolist()))


def _orientation(direction: tuple[float, ...]) -> str:
    import SimpleITK as sitk

    return str(sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(direction))


def _decoded(task: str, path: Path, **arguments: Any) -> Volume:
    path = path.absolute()
    content, (array,) = run_task(task, path, path=str(path), **arguments)
    remarks = tuple(content["remarks"])
    for remark in remarks:
        _tell(str(path), remark)
    return Volume(
        array, Geometry.parse(content["geometry"]), Geometry.parse(content["file_geometry"]), str(path), remarks=remarks
    )


@lru_cache(maxsize=10_000)
def _tell(path: str, remark: str) -> None:
    """Logs a remark once, however often the file is read."""
    log.warning("%s: %s", path, remark)
