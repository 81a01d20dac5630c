"""References: annotated CTs in the common space, with labels, field of view, picture and thumbnail."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from medsam2_atlas.atlas.config import ThumbnailConfig, atlas_config
from medsam2_atlas.atlas.sex import guessed_sex
from medsam2_atlas.base.choices import Sex
from medsam2_atlas.base.files import replacing
from medsam2_atlas.imaging.cropped_map import CroppedMap
from medsam2_atlas.registration import Keypoints, Transform, WorkImage, grid_points

MAP_SPACING = 3.0
"""The spacing in mm of the grid of shares and probability maps. Part of the stored format: atlases do not record it."""
THUMBNAIL_SPACING = 12.0
"""The spacing in mm of the grid of thumbnails. Part of the stored format."""
HALF = 128
"""The stored share of a voxel of which half belongs to the organ; 255 stands for the whole voxel."""
NO_VOXEL = -32768
"""The value in pictures and thumbnails at positions without a voxel of the CT."""

Origin = Literal["base", "final"]


@dataclass(frozen=True)
class ReferenceFiles:
    """The files of an annotated CT.

    Attributes:
        name: the name of the case.
        image: the CT: a file, or the folder of a series.
        label: the label map.
        sex: the sex of the patient; None if unknown.
    """

    name: str
    image: Path
    label: Path
    sex: Sex | None = None


@dataclass(frozen=True)
class OrganShare(CroppedMap):
    """The share of each voxel of the map grid that belongs to an organ of a reference, cropped.

    Attributes:
        values: `[z, y, x]` uint8; 255 stands for the whole voxel.
        lower: (z, y, x) of the first voxel on the map grid.
    """


@dataclass(frozen=True)
class Reference:
    """An annotated CT of an atlas.

    Attributes:
        name: the name, unique in the atlas.
        sha256: the checksum of the label file.
        organs: the numbers of the annotated organs.
        transform: the transform from the common space's world points to the CT's (x, y, z in mm, LPS).
        shares: the share by organ number, on the map grid.
        covered: the field of view on the map grid, as packed bits.
        picture: HU on the template's grid, `[z, y, x]` int16; `NO_VOXEL` outside the CT.
        thumbnail: HU on the thumbnails' grid of 12 mm, `[z, y, x]` int16; `NO_VOXEL` outside the CT.
        origin: `base` if the atlas was built from it, `final` if its label was signed off later.
        agreement: the Dice by organ number with the majority vote of all other references, in the common space.
        stored: the file that the reference was loaded from; None if it is new.
        image_sha256: the checksum of the image file; empty if unknown, or if the image is a folder.
        keypoints: the keypoints in the common space; None if an earlier version made the reference.
        given_sex: the sex of the patient, given or guessed on the label map's own grid; None if neither was possible, or if an
            earlier version made the reference and the sex was not given.
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
    keypoints: Keypoints | None = None
    given_sex: Sex | None = None

    @cached_property
    def sex(self) -> Sex | None:
        """The given sex, or else the one that the organs in the common space suggest; None if unknown."""
        return self.given_sex or guessed_sex(self.shares)

    @property
    def file_name(self) -> str:
        """The name of the reference's file, which is determined by its name, label and image."""
        parts = [self.name, self.sha256, *([self.image_sha256] if self.image_sha256 else [])]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:20] + ".npz"

    @property
    def on_template(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The picture in HU, `[z, y, x]` float32, and its validity (bool): False outside the CT."""
        picture = torch.from_numpy(self.picture.astype(np.float32))
        return picture, picture > NO_VOXEL

    def covers(self, shape: tuple[int, ...]) -> np.ndarray:
        """Returns the field of view, `[z, y, x]` bool, on the map grid of shape `shape` (z, y, x)."""
        return np.unpackbits(self.covered, count=int(np.prod(shape))).reshape(shape).astype(bool)

    def mask(self, organ: int, shape: tuple[int, ...]) -> np.ndarray:
        """Returns an organ's mask on the map grid of shape `shape` (z, y, x).

        Returns:
            `[z, y, x]` bool, True where at least half of the voxel belongs to the organ.
        """
        mask = np.zeros(shape, bool)
        share = self.shares.get(organ)
        if share is not None:
            mask[share.spans] = share.values >= HALF
        return mask

    def with_agreement(self, agreement: dict[int, float]) -> Reference:
        """Returns a copy with another agreement."""
        return replace(self, agreement=agreement)

    def describe(self) -> dict[str, Any]:
        """Returns the reference's entry in `atlas.json`."""
        return {
            "name": self.name,
            "sha256": self.sha256,
            "organs": list(self.organs),
            "origin": self.origin,
            "agreement": {str(k): round(v, 4) for k, v in self.agreement.items()},
            "file": self.file_name,
            **({"image_sha256": self.image_sha256} if self.image_sha256 else {}),
            **({"sex": self.given_sex} if self.given_sex else {}),
        }

    def save(self, file: Path) -> None:
        """Writes the reference's arrays to one `.npz` file."""
        arrays: dict[str, np.ndarray] = {"covered": self.covered, "picture": self.picture, "thumbnail": self.thumbnail}
        arrays |= self.transform.arrays()
        if self.keypoints is not None:
            arrays |= self.keypoints.arrays("keypoints")
        for k, share in self.shares.items():
            arrays[f"organ.{k}.values"], arrays[f"organ.{k}.low"] = share.values, np.array(share.lower)
        with replacing(file) as part, part.open("wb") as stream:
            np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, folder: Path, entry: dict[str, Any]) -> Reference:
        """Reads a reference that `save` wrote.

        Args:
            folder: the folder of the file.
            entry: the result of `describe`.

        Raises:
            OSError: the file is missing or cannot be read.
            ValueError: the file is damaged.
            KeyError: the file or the entry is incomplete.
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
                Keypoints.from_arrays(arrays, "keypoints"),
                entry.get("sex"),
            )


def map_shape(template: WorkImage) -> tuple[int, int, int]:
    """Returns the shape (z, y, x) of the map grid, which is the grid of shares and probability maps, given the template."""
    return _shape_at(template, MAP_SPACING)


def _shape_at(template: WorkImage, spacing: float) -> tuple[int, int, int]:
    z, y, x = (int((n - 1) * template.spacing / spacing) + 1 for n in template.shape)
    return z, y, x


def thumbnail_of(image: WorkImage, transform: Transform, template: WorkImage) -> np.ndarray:
    """Makes the thumbnail of a CT: its HU in the common space on a grid of 12 mm.

    Args:
        image: the CT on its working grid.
        transform: the transform from the common space's world points to the CT's (x, y, z in mm, LPS).
        template: the mean image of the common space.

    Returns:
        `[z, y, x]` int16; `NO_VOXEL` outside the CT.
    """
    points = grid_points(torch.Size(_shape_at(template, THUMBNAIL_SPACING)), template.origin, THUMBNAIL_SPACING)
    return picture_of(*image.at_spacing(THUMBNAIL_SPACING).warped(transform(points)))


def picture_of(hu: torch.Tensor, valid: torch.Tensor) -> np.ndarray:
    """Converts HU `[z, y, x]` to int16, with `NO_VOXEL` where `valid` (bool, of the same shape) is False."""
    picture: np.ndarray = torch.where(valid, hu.round(), float(NO_VOXEL)).numpy().astype(np.int16)
    return picture


def thumbnail_distance(a: np.ndarray, b: np.ndarray, config: ThumbnailConfig | None = None) -> float:
    """Returns 1 − the correlation of two thumbnails over the voxels that both have: 0 if equal, 1 if unrelated.

    Args:
        a: a thumbnail, `[z, y, x]` int16 in HU.
        b: another thumbnail of the same shape.
        config: the compared HU and the min number of voxels; those of `configs/atlas.yaml` by default.
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
    """Returns the distance between a target's thumbnail and the most similar thumbnail of the references.

    Args:
        thumbnail: the target's thumbnail, `[z, y, x]` int16 in HU.
        references: the references; 1 is returned if there are none.
    """
    return min((thumbnail_distance(thumbnail, r.thumbnail) for r in references), default=1.0)
