"""Images and their geometry. Only this module handles axes, orientations and image files.

All other code relies on this contract: arrays are indexed `[z, y, x]`; spacing, origin, points and indices of points are
(x, y, z); world coordinates are millimetres in LPS (+x left, +y posterior, +z superior). A `Volume` has the LPS orientation:
its x axis is the one nearest to the patient's left, y to posterior, z to superior. An oblique volume keeps its own axes, as
only the nearest direction matters.

Only functions that convert or write images import SimpleITK. Reading does not need it: reader processes decode files.
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
    """A voxel grid in world coordinates (mm, LPS).

    Attributes:
        size: number of voxels along (x, y, z).
        spacing: voxel spacing along (x, y, z) in mm.
        origin: centre of the first voxel, (x, y, z) in mm.
        direction: `3 x 3` matrix by rows; its columns are the unit vectors of the axes.

    Raises:
        ValueError: a size is below 1, a spacing is not above 0, or a number is not finite.
    """

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: tuple[float, ...] = (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)

    def __post_init__(self) -> None:
        # Plain numbers, because keys of stored registrations contain a geometry's text. NumPy's numbers print differently in
        # different versions.
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
        """Returns the grid of a dictionary that `dataclasses.asdict` made, for example from JSON.

        Raises:
            KeyError, TypeError, ValueError: the dictionary is not a grid.
        """
        return cls(*(tuple(content[key]) for key in ("size", "spacing", "origin", "direction")))

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of an array on this grid, `(z, y, x)`."""
        return self.size[::-1]

    @property
    def voxel_ml(self) -> float:
        """The volume of a voxel in millilitres."""
        return float(np.prod(self.spacing)) / 1000

    @property
    def matrix(self) -> np.ndarray:
        """The matrix `[3, 3]` from voxel indices (x, y, z) to world coordinates (x, y, z) in mm, without the origin."""
        return np.asarray(self.direction).reshape(3, 3) * np.asarray(self.spacing)

    def to_world(self, index: np.ndarray) -> np.ndarray:
        """Returns world coordinates `[..., 3]`, (x, y, z) in mm, of voxel indices `[..., 3]`, (x, y, z).

        >>> Geometry((4, 4, 4), (2.0, 2.0, 5.0), (0.0, 0.0, 100.0)).to_world([1, 0, 2]).tolist()
        [2.0, 0.0, 110.0]
        """
        result: np.ndarray = np.asarray(index, float) @ self.matrix.T + np.asarray(self.origin)
        return result

    def to_index(self, world: np.ndarray) -> np.ndarray:
        """Returns continuous voxel indices `[..., 3]`, (x, y, z), of world coordinates `[..., 3]`, (x, y, z) in mm."""
        result: np.ndarray = (np.asarray(world, float) - np.asarray(self.origin)) @ np.linalg.inv(self.matrix).T
        return result

    def matches(self, other: Geometry, tolerance: float = 1e-3) -> bool:
        """Returns whether two grids have the same size and nearly the same corners.

        Args:
            other: the other grid.
            tolerance: max distance between corners in mm; at least a thousandth of the smallest spacing is allowed.
        """
        corners = np.array([[0, 0, 0], [n - 1 for n in self.size]], float)
        corners = np.concatenate([corners, np.diag([n - 1.0 for n in self.size])])
        return self.size == other.size and bool(
            np.abs(self.to_world(corners) - other.to_world(corners)).max() <= max(tolerance, 1e-3 * min(self.spacing))
        )


@dataclass(frozen=True)
class Volume:
    """An image in LPS orientation, and the grid of its file.

    Attributes:
        array: voxels `[z, y, x]`; HU for CTs, organ numbers for label maps.
        geometry: the grid of `array`.
        file_geometry: the grid in the file; results are written on it.
        source: the file, for messages.
        hu: how the values of a CT became HU, for reports; None if they were not checked. See `hounsfield`.
        remarks: corrections that were made while the file was read, such as units of length; sentences for people, without the
            file's name.
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
        """Returns a volume with another array `[z, y, x]` on the same grid."""
        return replace(self, array=array)

    @cached_property
    def digest(self) -> str:
        """The hash of voxels and grid, as twenty hexadecimal digits."""
        digest = hashlib.blake2b(np.ascontiguousarray(self.array).data, digest_size=10)
        digest.update(repr((self.array.dtype.str, self.geometry)).encode())
        return digest.hexdigest()

    def as_image(self) -> sitk.Image:
        """Returns the array as a SimpleITK image in LPS orientation."""
        return to_sitk(self.array, self.geometry)

    def restored(self) -> sitk.Image:
        """Returns the array as a SimpleITK image on exactly the grid of the volume's file.

        Raises:
            ValueError: the array does not have the size of the file's grid after it is turned back.
        """
        import SimpleITK as sitk

        code = _orientation(self.file_geometry.direction)
        image = sitk.DICOMOrient(self.as_image(), code)
        if image.GetSize() != tuple(self.file_geometry.size):
            raise ValueError(f"{self.source}: could not be turned back from LPS to {code}")
        return to_sitk(sitk.GetArrayFromImage(image), self.file_geometry)

    def to_file_index(self, index: np.ndarray) -> np.ndarray:
        """Returns the file's voxel indices `[..., 3]`, (x, y, z), for indices `[..., 3]` of this volume."""
        result: np.ndarray = np.rint(self.file_geometry.to_index(self.geometry.to_world(index))).astype(int)
        return result

    @property
    def slice_axis_in_file(self) -> int:
        """The file's axis (0 x, 1 y, 2 z) that is perpendicular to the axial slices."""
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
    """Returns a CT: `[z, y, x]` float32 in LPS orientation. Its values are not checked to be HU; see `hounsfield.read_ct`.

    A reader process decodes the file.

    Args:
        path: a NIfTI, NRRD or MHA file, or a DICOM series (its folder, or one of its files).

    Raises:
        InputError: the file cannot be read, is a segmentation, is not three-dimensional, has fewer than two slices, has values
            that are not finite, or has the same value in all voxels.
    """
    return _decoded("volume", Path(path))


def read_grid(path: str | Path) -> Geometry:
    """Returns the grid of an image in LPS orientation, from its header alone if it is a file. A reader process reads it.

    Raises:
        InputError: the image cannot be read, or is not three-dimensional.
    """
    path = Path(path).absolute()
    content, _ = run_task("grid", path, path=str(path))
    return Geometry.parse(content["geometry"])


def read_labels(path: str | Path, like: Volume | None = None, *, image: str | Path | None = None) -> Volume:
    """Returns a label map: `[z, y, x]` uint8 organ numbers in LPS orientation. A reader process decodes it.

    Values within 0.001 of whole numbers are rounded. If the grid differs from the image's by less than a tenth of a voxel at
    every corner, the image's grid replaces it. `remarks` report both.

    The segments of a 3D Slicer segmentation become organ numbers by their names, see `segment_names`. Slicer crops
    segmentations, so they are padded to the grid of the image. Without an image, they keep their own grid. `remarks` report
    segments that overlap.

    Args:
        path: the label map.
        like: its image; None to keep the label map's own grid.
        image: file or folder of its image, as an alternative to `like`; only its grid is read.

    Raises:
        InputError: the label map cannot be read, has values that are not whole numbers from 0 to 255, has a different grid from
            the image, or has segments that are not organs.
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
    """Writes a volume on the grid of its original file.

    Args:
        volume: the volume to write.
        path: the file to write; its suffix determines the format.
        compress: whether the voxels are compressed.

    Raises:
        InputError: the suffix is not one of `SUFFIXES`.
        StorageError: the folder does not exist.
    """
    import SimpleITK as sitk

    path = Path(path)
    if not path.name.endswith(SUFFIXES):  # in lower case, as ITK crashes on upper case
        raise InputError(path, "cannot be written: its suffix is not an image format.", f"Use one of {', '.join(SUFFIXES)}.")
    with replacing(path) as part:
        sitk.WriteImage(volume.restored(), str(part), useCompression=compress)


def grid_of_header(path: Path, header: Header) -> Geometry:
    """Returns the grid of a file, from its checked header.

    Raises:
        InputError: the image does not have three axes.
    """
    size, grid = header.axes, header.grid
    if len(size) != 3 or grid is None:
        raise InputError(path, f"has {len(size)} dimensions, not 3: {size}.", "Choose one phase, or the whole volume.")
    return Geometry((size[0], size[1], size[2]), grid.spacing, grid.origin, grid.direction)


def upright(grid: Geometry) -> Geometry:
    """Returns a grid with its axes turned to LPS. SimpleITK's DICOMOrient gives the same grid, but needs a whole image."""
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
        _log_once(str(path), remark)
    return Volume(
        array, Geometry.parse(content["geometry"]), Geometry.parse(content["file_geometry"]), str(path), remarks=remarks
    )


@lru_cache(maxsize=10_000)
def _log_once(path: str, remark: str) -> None:
    """Logs a remark on a file; the same remark is logged only once."""
    log.warning("%s: %s", path, remark)
