"""References: annotated CTs in the common space, with their labels, their field of view, and a small picture."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from medsam2_atlas.atlas.config import ThumbnailConfig, atlas_config
from medsam2_atlas.base.files import replacing
from medsam2_atlas.imaging.cropped_map import CroppedMap
from medsam2_atlas.registration import Transform, WorkImage, grid_points

MAP_SPACING = 3.0
"""Spacing in mm of the grid of shares and probability maps. Part of the stored form: atlases do not name it."""
THUMBNAIL_SPACING = 12.0
"""Spacing in mm of the grid of thumbnails. Part of the stored form."""
HALF = 128
"""Half of a voxel, of the 255 that a share of all of it has."""
NO_VOXEL = -32768
"""Stands in pictures for places where a CT has no voxel."""

Origin = Literal["base", "final"]


@dataclass(frozen=True)
class ReferenceFiles:
    """Where an annotated CT lies."""

    name: str
    image: Path
    label: Path


@dataclass(frozen=True)
class OrganShare(CroppedMap):
    """How much of each voxel of the common space's map grid belongs to an organ of a reference, cropped.

    values: `[z, y, x]` uint8, 255 = all of it. low: (z, y, x) of the first voxel on the map grid.
    """


@dataclass(frozen=True)
class Reference:
    """One annotated CT of an atlas.

    Attributes:
        name: unique in the atlas.
        sha256: checksum of its label file.
        organs: numbers that are annotated.
        transform: from the common space's world points to its own.
        shares: of each organ, on the map grid.
        covered: its field of view on the map grid, as packed bits.
        picture: HU on the template's grid, `[z, y, x]` int16; `NO_VOXEL` where it has no voxel.
        thumbnail: the same on a 12 mm grid.
        origin: `base` for those that an atlas was built from, `final` for labels that were signed off later.
        agreement: Dice per organ with all other references, in the common space.
        stored: the file that it was read from.
        image_sha256: checksum of its image file; empty if unknown, or if the image is a folder.
    """

    name: str
    sha256: str
    organs: tuple[int, ...]
    transform: Transform
    shares: dict[int, OrganShare]
    covered: np.ndarray
    picture: np.ndarray
    thumbnail: np.ndarray
    origin: Origin = "base"
    agreement: dict[int, float] = field(default_factory=dict)
    stored: Path | None = None
    image_sha256: str = ""

    @property
    def file_name(self) -> str:
        """Name of its file: the same for the same labels of the same image."""
        parts = [self.name, self.sha256, *([self.image_sha256] if self.image_sha256 else [])]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:20] + ".npz"

    def covers(self, shape: tuple[int, ...]) -> np.ndarray:
        """Returns its field of view, bool on the map grid of that shape."""
        return np.unpackbits(self.covered, count=int(np.prod(shape))).reshape(shape).astype(bool)

    def mask(self, organ: int, shape: tuple[int, ...]) -> np.ndarray:
        """Returns where half or more of a voxel belongs to an organ, bool on the map grid of that shape."""
        mask = np.zeros(shape, bool)
        share = self.shares.get(organ)
        if share is not None:
            mask[share.spans] = share.values >= HALF
        return mask

    def with_agreement(self, agreement: dict[int, float]) -> Reference:
        """Returns a copy with other agreement."""
        return replace(self, agreement=agreement)

    def describe(self) -> dict[str, Any]:
        """Returns its entry in `atlas.json`."""
        return {
            "name": self.name,
            "sha256": self.sha256,
            "organs": list(self.organs),
            "origin": self.origin,
            "agreement": {str(k): round(v, 4) for k, v in self.agreement.items()},
            "file": self.file_name,
            **({"image_sha256": self.image_sha256} if self.image_sha256 else {}),
        }

    def save(self, file: Path) -> None:
        """Writes its arrays as one `.npz`."""
        arrays: dict[str, np.ndarray] = {"covered": self.covered, "picture": self.picture, "thumbnail": self.thumbnail}
        arrays |= self.transform.arrays()
        for k, share in self.shares.items():
            arrays[f"organ.{k}.values"], arrays[f"organ.{k}.low"] = share.values, np.array(share.lower)
        with replacing(file) as part, part.open("wb") as stream:
            np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, folder: Path, entry: dict[str, Any]) -> Reference:
        """Reads what `describe` and `save` gave.

        Raises:
            OSError, ValueError, KeyError: the file is not there or is broken.
        """
        file = folder / entry["file"]
        with np.load(file, allow_pickle=False) as arrays:
            shares = {}
            for name in arrays.files:
                if name.startswith("organ.") and name.endswith(".values"):
                    k = int(name.split(".")[1])
                    z, y, x = (int(v) for v in arrays[f"organ.{k}.low"])
                    shares[k] = OrganShare(arrays[name], (z, y, x))
            return cls(
                entry["name"],
                entry["sha256"],
                tuple(entry["organs"]),
                Transform.from_arrays({name: arrays[name] for name in arrays.files}),
                shares,
                arrays["covered"],
                arrays["picture"],
                arrays["thumbnail"],
                entry["origin"],
                {int(k): float(v) for k, v in entry["agreement"].items()},
                file,
                str(entry.get("image_sha256", "")),
            )


def map_shape(template: WorkImage) -> tuple[int, int, int]:
    """Returns the shape (z, y, x) of the grid of shares and probability maps over a template."""
    return _shape_at(template, MAP_SPACING)


def _shape_at(template: WorkImage, spacing: float) -> tuple[int, int, int]:
    z, y, x = (int((n - 1) * template.spacing / spacing) + 1 for n in template.shape)
    return z, y, x


def thumbnail_of(image: WorkImage, transform: Transform, template: WorkImage) -> np.ndarray:
    """Returns a CT in the common space on the 12 mm grid of thumbnails; `transform` is from the common space to the CT."""
    points = grid_points(torch.Size(_shape_at(template, THUMBNAIL_SPACING)), template.origin, THUMBNAIL_SPACING)
    return picture_of(*image.at_spacing(THUMBNAIL_SPACING).warped(transform(points)))


def picture_of(hu: torch.Tensor, valid: torch.Tensor) -> np.ndarray:
    """Returns HU `[z, y, x]` as int16; `NO_VOXEL` where they are not valid."""
    picture: np.ndarray = torch.where(valid, hu.round(), float(NO_VOXEL)).numpy().astype(np.int16)
    return picture


def thumbnail_distance(a: np.ndarray, b: np.ndarray, config: ThumbnailConfig | None = None) -> float:
    """Returns 1 − correlation of two thumbnails where both have voxels; 0 equal, 1 unrelated.

    config: the HU that are compared; those of `configs/atlas.yaml` by default.
    """
    config = config or atlas_config().thumbnail
    both = (a > NO_VOXEL) & (b > NO_VOXEL)
    if both.sum() < config.min_voxels:
        return 1.0
    x, y = (np.clip(t[both].astype(np.float64), *config.window) for t in (a, b))
    if x.std() == 0 or y.std() == 0:
        return 1.0
    return float(1 - np.corrcoef(x, y)[0, 1])


def novelty(thumbnail: np.ndarray, references: Sequence[Reference]) -> float:
    """Returns the distance of a target's thumbnail to that of the nearest reference."""
    return min((thumbnail_distance(thumbnail, r.thumbnail) for r in references), default=1.0)
