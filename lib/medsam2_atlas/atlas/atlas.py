"""The atlas: a common space with its mean image, the references, and one probability map per organ."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medsam2_atlas.atlas.config import atlas_config
from medsam2_atlas.atlas.reference import MAP_SPACING, Reference, map_shape
from medsam2_atlas.base.errors import AtlasError
from medsam2_atlas.base.files import replacing
from medsam2_atlas.imaging.cropped_map import CroppedMap
from medsam2_atlas.imaging.labels import OrganTable, organ_table
from medsam2_atlas.registration import BY_KEYPOINTS, DEFAULT_METHOD, OLD_NAMES, Landmarks, MeanDescriptors, WorkImage

FORMAT = 3
"""The version of the stored format."""


@dataclass(frozen=True)
class ProbabilityMap:
    """The share of the references in which a point of the common space belongs to an organ, cropped to values above 0.

    Attributes:
        values: `[z, y, x]` uint8; 255 stands for all references.
        origin: the first voxel's centre, `[3]` (x, y, z) in mm, LPS.
        count: the number of references in which the organ is labelled.
    """

    values: np.ndarray
    origin: np.ndarray
    count: int

    def as_tensor(self) -> torch.Tensor:
        """Returns the probabilities, `[1, z, y, x]` float32, 0..1."""
        return torch.from_numpy(self.values.astype(np.float32) / 255)[None]

    def on_grid(self, template: WorkImage) -> CroppedMap:
        """Returns the map with its position on the map grid of a template."""
        z, y, x = (int(n) for n in np.rint((self.origin - template.origin.numpy()) / MAP_SPACING)[::-1])
        return CroppedMap(self.values, (z, y, x))


@dataclass(frozen=True)
class Atlas:
    """Annotated CTs in a common space, whose labels are transferred to targets.

    Attributes:
        template: the mean image of the common space.
        maps: the probability map by organ number.
        references: the annotated CTs, registered to the common space.
        options: the options with which the atlas was built, and its thresholds.
        source: the atlas' folder, for messages.
    """

    template: WorkImage
    maps: dict[int, ProbabilityMap]
    references: tuple[Reference, ...]
    options: dict[str, Any] = field(default_factory=dict)
    source: str = "atlas"

    @cached_property
    def template_version(self) -> str:
        """Twelve hexadecimal digits that identify the common space. A registration is valid for all atlases of that space."""
        return self._template_digest().hexdigest()[:12]

    def _template_digest(self) -> Any:
        digest = hashlib.sha256(self.template.hu.numpy().astype(np.int16).tobytes())
        if self.template.group is not None:
            digest.update(self.template.group.values.tobytes())
        if self.template.landmarks is not None:
            for array in self.template.landmarks.arrays().values():
                digest.update(array.tobytes())
        return digest

    @property
    def registered_by(self) -> str:
        """The method by which the references were registered to each other."""
        method = str(self.options.get("registration", {}).get("method", DEFAULT_METHOD))
        return OLD_NAMES.get(method, method)

    def check_method(self, method: str) -> None:
        """Checks that CTs can be registered to the atlas by a method.

        Raises:
            AtlasError: the method needs the references' keypoints, and the atlas has none.
        """
        if method in BY_KEYPOINTS and self.template.landmarks is None:
            raise AtlasError(
                self.source,
                f"has no keypoints of its references, which the registration {method!r} compares.",
                "Build it again with this version, or register densely (--registration dense).",
            )

    @cached_property
    def version(self) -> str:
        """Twelve hexadecimal digits that change with every property of the atlas that affects score maps."""
        digest = self._template_digest()
        for index in sorted(self.maps):
            digest.update(bytes([index]) + self.maps[index].values.tobytes() + self.maps[index].origin.tobytes())
        for reference in self.references:
            digest.update(reference.sha256.encode() + reference.picture.tobytes() + (reference.given_sex or "").encode())
        digest.update(json.dumps(self.options.get("thresholds"), sort_keys=True).encode())
        return digest.hexdigest()[:12]

    @property
    def agreement(self) -> dict[int, float]:
        """The mean over references of the Dice between a reference and all others in the common space, by organ number."""
        values: dict[int, list[float]] = {}
        for reference in self.references:
            for k, dice in reference.agreement.items():
                values.setdefault(k, []).append(dice)
        return {k: float(np.mean(v)) for k, v in sorted(values.items())}

    @property
    def disagreeing(self) -> list[str]:
        """The names of references that disagree with all others: their mean Dice is below `min_agreement`.

        Raises:
            InputError: `configs/atlas.yaml` does not contain valid parameters.
        """
        limit = atlas_config().min_agreement
        known = ((reference.name, list(reference.agreement.values())) for reference in self.references)
        return [name for name, dice in known if dice and float(np.mean(dice)) < limit]

    @cached_property
    def coverage(self) -> ProbabilityMap:
        """The references' joint field of view in the common space: 1 where at least one reference has voxels."""
        shape = map_shape(self.template)
        seen = np.zeros(shape, bool)
        for reference in self.references:
            seen |= reference.covers(shape)
        return ProbabilityMap(seen.astype(np.uint8) * 255, self.template.origin.numpy(), len(self.references))

    def save(self, folder: Path) -> None:
        """Writes the atlas to a folder, in one step. An existing atlas in this folder is replaced.

        Files of references that were loaded from another atlas folder are linked, not written again.

        Raises:
            AtlasError: the folder exists and is not an atlas.
            StorageError: the parent folder does not exist.
        """
        self.check_target(folder)
        with replacing(folder) as part:
            (part / "references").mkdir(parents=True)
            np.savez_compressed(part / "template.npz", **_template_arrays(self.template))  # type: ignore[arg-type]
            arrays: dict[str, np.ndarray] = {}
            for index, organ_map in self.maps.items():
                arrays[f"{index}.values"], arrays[f"{index}.origin"] = organ_map.values, organ_map.origin
            np.savez_compressed(part / "maps.npz", **arrays)  # type: ignore[arg-type]
            for reference in self.references:
                file = part / "references" / reference.file_name
                if reference.stored is not None and reference.stored.is_file():
                    _link_or_copy(reference.stored, file)
                else:
                    reference.save(file)
            about = {
                "format": FORMAT,
                "version": self.version,
                "template": self.template_version,
                "organs": {str(o.index): o.name for o in organ_table().organs},
                "options": self.options,
                "references": [reference.describe() for reference in self.references],
                "counts": {str(index): organ_map.count for index, organ_map in self.maps.items()},
            }
            (part / "atlas.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")

    @staticmethod
    def check_target(folder: Path) -> None:
        """Checks that an atlas may be saved to a folder: a new folder, an empty one, or an atlas, which is then replaced.

        Raises:
            AtlasError: the folder exists and is not an atlas.
        """
        if folder.exists() and not (folder / "atlas.json").exists() and any(folder.iterdir()):
            raise AtlasError(folder, "exists and is not an atlas.", "Choose a new folder.")

    @classmethod
    def load(cls, folder: str | Path, table: OrganTable | None = None) -> Atlas:
        """Reads an atlas folder.

        Raises:
            AtlasError: the folder is not an atlas, is damaged, or was built with another organ table.
        """
        folder = Path(folder)
        if not (folder / "atlas.json").is_file():
            raise AtlasError(folder, "is not an atlas: it has no atlas.json.", "Make one: medsam2-atlas atlas build REFS OUT.")
        try:
            about = json.loads((folder / "atlas.json").read_text(encoding="utf-8"))
            if about["format"] != FORMAT:
                raise AtlasError(folder, f"has format {about['format']}, not {FORMAT}.", "Build it again.")
            expected = {str(o.index): o.name for o in (table or organ_table()).organs}
            if about["organs"] != expected:
                differing = sorted(set(about["organs"].items()) ^ set(expected.items()))
                raise AtlasError(
                    folder,
                    f"has another organ table: {differing[:4]} differ.",
                    "Build it again with this organ table, or use the table that it was built with.",
                )
            with np.load(folder / "template.npz", allow_pickle=False) as stored:
                template = _template_from(stored)
            with np.load(folder / "maps.npz", allow_pickle=False) as stored:
                maps = {
                    int(index): ProbabilityMap(stored[f"{index}.values"], stored[f"{index}.origin"], int(count))
                    for index, count in about["counts"].items()
                }
            references = tuple(Reference.load(folder / "references", entry) for entry in about["references"])
        except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
            raise AtlasError(folder, f"cannot be read ({error}).", "Build it again.") from error
        return cls(template, maps, references, about["options"], str(folder))


def _template_arrays(template: WorkImage) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {
        "hu": template.hu.numpy().round().astype(np.int16),
        "valid": np.packbits(template.valid.numpy()),
        "origin": template.origin.numpy(),
        "spacing": np.array(template.spacing),
    }
    if template.group is not None:
        arrays |= {"group": template.group.values, "known": np.packbits(template.group.known)}
    if template.landmarks is not None:
        arrays |= template.landmarks.arrays()
    return arrays


def _template_from(arrays: Mapping[str, np.ndarray]) -> WorkImage:
    """Reads the template. Older atlases have no landmarks, and those before them no mean descriptors either.

    Without mean descriptors, targets are registered densely to the mean image.
    """
    hu = torch.from_numpy(arrays["hu"].astype(np.float32))
    origin, spacing = torch.from_numpy(arrays["origin"]), float(arrays["spacing"])

    def bits(name: str) -> np.ndarray:
        return np.unpackbits(arrays[name], count=hu.numel()).reshape(hu.shape).astype(bool)

    group = MeanDescriptors(arrays["group"], bits("known"), origin, spacing) if "group" in arrays else None
    valid = torch.from_numpy(bits("valid"))
    return WorkImage(hu, valid, origin, spacing, group, landmarks=Landmarks.from_arrays(arrays))


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # the target is on another file system
        target.write_bytes(source.read_bytes())
