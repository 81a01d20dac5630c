"""Transforms: chains of affine maps and displacement fields that map world points (mm, LPS) to world points.

The transform that registers a moving image to a fixed image maps world points of the fixed image to world points of the moving
image, because resampling needs that direction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F

from medsam2_atlas.base.errors import AtlasError
from medsam2_atlas.base.files import replacing
from medsam2_atlas.imaging.volume import Geometry

_MANY_POINTS = 1 << 14
"""Max number of points that a single thread samples: for so few points, several threads would be slower."""


class Map(Protocol):
    """One map in the chain of a transform."""

    def __call__(self, points: torch.Tensor) -> torch.Tensor:
        """Maps world points `[..., 3]` (x, y, z) in mm to world points of the same shape."""
        ...

    def inverse(self) -> Map:
        """Returns the inverse map."""
        ...


@dataclass(frozen=True)
class Affine:
    """The affine map x → matrix · x + shift.

    Attributes:
        matrix: `[3, 3]`, for (x, y, z).
        shift: `[3]` (x, y, z) in mm.

    Examples:
        >>> double = Affine(2 * torch.eye(3), torch.tensor([0.0, 0.0, 5.0]))
        >>> double(torch.tensor([[1.0, 2.0, 3.0]])).tolist()
        [[2.0, 4.0, 11.0]]
    """

    matrix: torch.Tensor
    shift: torch.Tensor

    def __call__(self, points: torch.Tensor) -> torch.Tensor:
        """Maps world points `[..., 3]` (x, y, z) in mm to world points of the same shape."""
        return points @ self.matrix.T + self.shift

    def inverse(self) -> Affine:
        """Returns the inverse map."""
        matrix = torch.linalg.inv(self.matrix.double()).float()
        return Affine(matrix, -matrix @ self.shift)


@dataclass(frozen=True)
class Displacement:
    """The map x → x + u(x), with the displacement u on an axis-parallel isotropic grid.

    Outside the grid, u has the value of the nearest grid point.

    Attributes:
        field: u, `[3, z, y, x]`: (x, y, z) displacements in mm.
        origin: the grid's first point, `[3]` (x, y, z) in mm.
        spacing: the grid's spacing in mm.
    """

    field: torch.Tensor
    origin: torch.Tensor
    spacing: float

    def __call__(self, points: torch.Tensor) -> torch.Tensor:
        """Maps world points `[..., 3]` (x, y, z) in mm to world points of the same shape."""
        return points + sample(self.field, points, self.origin, self.spacing).movedim(0, -1)

    def inverse(self, iterations: int = 20) -> Displacement:
        """Returns the inverse on the same grid, by the fixed-point iteration v(y) = −u(y + v(y)) (Chen et al. 2008)."""
        grid = grid_points(self.field.shape[1:], self.origin, self.spacing)
        inverse = torch.zeros_like(self.field)
        for _ in range(iterations):
            inverse = -sample(self.field, grid + inverse.movedim(0, -1), self.origin, self.spacing)
        return Displacement(inverse, self.origin, self.spacing)

    def undo(self, points: torch.Tensor, iterations: int = 20) -> torch.Tensor:
        """Returns the points `[..., 3]` (x, y, z) in mm that the map brings to `points`, by the same iteration as `inverse`."""
        back = torch.zeros_like(points)
        for _ in range(iterations):
            back = -sample(self.field, points + back, self.origin, self.spacing).movedim(0, -1)
        return points + back

    def folding(self) -> float:
        """Returns the share of grid cells whose Jacobian determinant is not positive."""
        u = self.field / self.spacing
        inner = [slice(None, n - 1) for n in u.shape[1:]]
        rows = []
        for component in u:  # x, y, z
            slopes = []
            for axis in (2, 1, 0):  # along x, y, z
                part = [span if other != axis else slice(None) for other, span in enumerate(inner)]
                slopes.append(component[tuple(part)].diff(dim=axis))
            rows.append(torch.stack(slopes, -1))
        jacobian = torch.stack(rows, -2) + torch.eye(3)
        return float((torch.linalg.det(jacobian) <= 0).float().mean())


@dataclass(frozen=True)
class Transform:
    """A chain of maps, applied from the first to the last."""

    maps: tuple[Map, ...] = ()

    def __call__(self, points: torch.Tensor) -> torch.Tensor:
        """Maps world points `[..., 3]` (x, y, z) in mm to world points of the same shape."""
        for step in self.maps:
            points = step(points)
        return points

    def then(self, other: Transform) -> Transform:
        """Returns this transform followed by another."""
        return Transform(self.maps + other.maps)

    def inverse(self) -> Transform:
        """Returns the inverse: exact for affine maps, accurate to a fraction of a millimetre for fields that do not fold."""
        return Transform(tuple(step.inverse() for step in reversed(self.maps)))

    def undo(self, points: torch.Tensor) -> torch.Tensor:
        """Returns the points `[..., 3]` (x, y, z) in mm that the chain brings to `points`; for few points, a fast inverse."""
        for step in reversed(self.maps):
            points = step.undo(points) if isinstance(step, Displacement) else step.inverse()(points)
        return points

    def warp_image(
        self, moving: np.ndarray, moving_grid: Geometry, fixed_grid: Geometry, outside: float = -1000.0
    ) -> np.ndarray:
        """Resamples a moving image on the fixed grid, by trilinear interpolation.

        Args:
            moving: the moving image, `[z, y, x]`.
            moving_grid: the grid of `moving`.
            fixed_grid: the grid of the result.
            outside: the value outside the moving image; HU of air by default.

        Returns:
            float32 `[z, y, x]` on the fixed grid.
        """
        return self._warp(moving.astype(np.float32), moving_grid, fixed_grid, "bilinear", outside)

    def warp_labels(self, moving: np.ndarray, moving_grid: Geometry, fixed_grid: Geometry) -> np.ndarray:
        """Resamples a moving label map on the fixed grid, by nearest neighbour.

        Args:
            moving: the moving label map, `[z, y, x]`.
            moving_grid: the grid of `moving`.
            fixed_grid: the grid of the result.

        Returns:
            `[z, y, x]` on the fixed grid, of the type of `moving`; 0 outside the moving label map.
        """
        warped = self._warp(moving.astype(np.float32), moving_grid, fixed_grid, "nearest", 0.0)
        return warped.round().astype(moving.dtype)

    def _warp(self, moving: np.ndarray, moving_grid: Geometry, fixed_grid: Geometry, mode: str, outside: float) -> np.ndarray:
        source = torch.from_numpy(moving)[None, None]
        result = np.empty(fixed_grid.shape, np.float32)
        to_index = torch.from_numpy(np.linalg.inv(moving_grid.matrix)).float()
        last = torch.tensor(moving_grid.size, dtype=torch.float32) - 1
        for z in range(fixed_grid.size[2]):  # slice by slice: never a coordinate volume at full resolution
            world = self(geometry_points(fixed_grid, z))
            index = (world - torch.tensor(moving_grid.origin)) @ to_index.T
            inside = ((index >= -0.5) & (index <= last + 0.5)).all(-1)
            unit = (index / last.clamp(min=1) * 2 - 1)[None, None].float()
            plane = F.grid_sample(source, unit, mode=mode, padding_mode="border", align_corners=True)[0, 0, 0]
            result[z] = torch.where(inside, plane, torch.tensor(outside)).numpy()
        return result

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the chain as named arrays for `from_arrays`.

        Map number i is stored as `map.i.matrix` `[3, 3]` and `map.i.shift` `[3]` in mm, or as `map.i.field` `[3, z, y, x]` in
        mm (half precision), `map.i.origin` `[3]` in mm and `map.i.spacing` in mm (a scalar).
        """
        arrays: dict[str, np.ndarray] = {}
        for i, step in enumerate(self.maps):
            if isinstance(step, Affine):
                arrays[f"map.{i}.matrix"], arrays[f"map.{i}.shift"] = step.matrix.numpy(), step.shift.numpy()
            elif isinstance(step, Displacement):
                arrays[f"map.{i}.field"] = step.field.numpy().astype(np.float16)
                arrays[f"map.{i}.origin"], arrays[f"map.{i}.spacing"] = step.origin.numpy(), np.array(step.spacing)
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Transform:
        """Returns the chain from the result of `arrays`, which defines the shapes and names.

        Args:
            arrays: arrays by name; other names are ignored.

        Raises:
            KeyError: an array is missing.
            ValueError: an array has a wrong name or type.
        """
        steps = sorted({int(name.split(".")[1]) for name in arrays if name.startswith("map.")})
        maps: list[Map] = []
        for i in steps:
            if f"map.{i}.matrix" in arrays:
                matrix, shift = arrays[f"map.{i}.matrix"], arrays[f"map.{i}.shift"]
                maps.append(Affine(torch.from_numpy(matrix), torch.from_numpy(shift)))
            else:
                field = torch.from_numpy(arrays[f"map.{i}.field"].astype(np.float32))
                origin = torch.from_numpy(arrays[f"map.{i}.origin"])
                maps.append(Displacement(field, origin, float(arrays[f"map.{i}.spacing"])))
        return cls(tuple(maps))

    def save(self, file: Path) -> None:
        """Writes the chain to one compressed `.npz` file."""
        with replacing(file) as part, part.open("wb") as stream:
            np.savez_compressed(stream, **self.arrays())  # type: ignore[arg-type]

    @classmethod
    def load(cls, file: Path) -> Transform:
        """Reads a file that `save` wrote.

        Raises:
            AtlasError: the file is not a saved transform.
        """
        try:
            with np.load(file, allow_pickle=False) as arrays:
                return cls.from_arrays({name: arrays[name] for name in arrays.files})
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise AtlasError(file, f"is not a saved transform ({error}).", "Remove it; it is then computed again.") from error


def geometry_points(grid: Geometry, z: int) -> torch.Tensor:
    """Returns the world points of slice `z` of a grid, `[y, x, 3]`: (x, y, z) in mm, LPS."""
    matrix = torch.from_numpy(grid.matrix).float()
    y, x = torch.meshgrid(torch.arange(grid.size[1]), torch.arange(grid.size[0]), indexing="ij")
    index = torch.stack([x, y, torch.full_like(x, z)], -1).float()
    return index @ matrix.T + torch.tensor(grid.origin, dtype=torch.float32)


def grid_points(shape: tuple[int, ...] | torch.Size, origin: torch.Tensor, spacing: float) -> torch.Tensor:
    """Returns the world points of an axis-parallel isotropic grid.

    Args:
        shape: the grid's shape (z, y, x).
        origin: the grid's first point, `[3]` (x, y, z) in mm.
        spacing: the grid's spacing in mm.

    Returns:
        float32 `[z, y, x, 3]`: (x, y, z) in mm.

    Examples:
        >>> grid_points((1, 1, 2), torch.tensor([10.0, 20.0, 30.0]), 4.0).tolist()
        [[[[10.0, 20.0, 30.0], [14.0, 20.0, 30.0]]]]
    """
    z, y, x = torch.meshgrid(*[torch.arange(n, dtype=torch.float32) * spacing for n in shape], indexing="ij")
    return torch.stack([x, y, z], -1) + origin


def sample(
    image: torch.Tensor,
    points: torch.Tensor,
    origin: torch.Tensor,
    spacing: float,
    mode: str = "bilinear",
    padding: str = "border",
) -> torch.Tensor:
    """Returns an image's interpolated values at world points.

    Args:
        image: `[c, z, y, x]` on an axis-parallel isotropic grid.
        points: world points `[..., 3]` (x, y, z) in mm.
        origin: the grid's first point, `[3]` (x, y, z) in mm.
        spacing: the grid's spacing in mm.
        mode: `bilinear` (here trilinear) or `nearest`.
        padding: `border` repeats the border's values outside the grid; `zeros` gives 0 there.

    Returns:
        `[c, ...]`, one value per channel and point.
    """
    last = torch.tensor(image.shape[:0:-1], dtype=torch.float32) - 1
    unit = ((points - origin) / spacing / last.clamp(min=1) * 2 - 1).reshape(-1, 3)
    count = len(unit)
    parts = torch.get_num_threads() if count > _MANY_POINTS else 1  # torch distributes the images of a batch to threads
    unit = F.pad(unit, (0, 0, 0, -count % parts)).reshape(parts, 1, 1, -1, 3)
    batch = image.expand(parts, *image.shape)
    values = F.grid_sample(batch, unit, mode=mode, padding_mode=padding, align_corners=True)
    flat = values.movedim(0, 1).reshape(image.shape[0], -1)[:, :count]
    return flat.reshape(image.shape[0], *points.shape[:-1])
