"""Builds an atlas from annotated CTs: a common space once, then one probability map per organ."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from medsam2_atlas.atlas.atlas import Atlas, ProbabilityMap, Reference
from medsam2_atlas.crop import occupied
from medsam2_atlas.errors import AtlasError, InputError
from medsam2_atlas.files import sha256
from medsam2_atlas.labels import OrganTable, organ_table
from medsam2_atlas.progress import Progress, silent
from medsam2_atlas.registration import (
    RegistrationConfig,
    Transform,
    WorkImage,
    build_common_space,
    grid_points,
    registration_config,
)
from medsam2_atlas.volume import Volume, read_labels, read_volume

log = logging.getLogger(__name__)

MAP_SPACING = 3.0
_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")
_CHUNK = 1 << 19

MissingOrgan = Literal["unknown", "absent"]


@dataclass(frozen=True)
class ReferenceFiles:
    """Where an annotated CT lies."""

    name: str
    image: Path
    label: Path


def find_references(folder: Path) -> list[ReferenceFiles]:
    """Pairs of files with the same name in `folder/images` and `folder/labels`, sorted by name.

    Raises:
        InputError: the folders are missing or empty, or an image has no label map or the other way round.
    """
    found: dict[str, dict[str, Path]] = {"images": {}, "labels": {}}
    for kind, files in found.items():
        if not (folder / kind).is_dir():
            raise InputError(
                folder, f"has no folder {kind}/.", "Put CTs into images/, label maps of the same names into labels/."
            )
        for file in sorted((folder / kind).iterdir()):
            suffix = next((s for s in _SUFFIXES if file.name.endswith(s)), None)
            if suffix and not file.name.startswith("."):
                files[file.name.removesuffix(suffix)] = file
    alone = sorted(set(found["images"]) ^ set(found["labels"]))
    if alone:
        raise InputError(folder, f"has no pair for {', '.join(alone[:5])}.", "Each image needs a label map of the same name.")
    if not found["images"]:
        raise InputError(folder, "has no references.", f"Put files ending in {', '.join(_SUFFIXES)} into images/ and labels/.")
    return [ReferenceFiles(name, image, found["labels"][name]) for name, image in sorted(found["images"].items())]


def build_atlas(
    references: Sequence[ReferenceFiles],
    *,
    missing: MissingOrgan = "unknown",
    config: RegistrationConfig | None = None,
    table: OrganTable | None = None,
    progress: Progress = silent,
) -> Atlas:
    """Registers the references into one common space and averages their labels there.

    Args:
        references: annotated CTs; whole or partial fields of view and label sets are welcome.
        missing: what it means that a label map lacks an organ: not annotated, so the reference is left out of that
            organ's average ("unknown"), or truly not there ("absent").
        config: registration parameters; those of `configs/registration.yaml` by default.
        table: the organs; those of `configs/labels.yaml` by default.
        progress: told stages and shares.

    Raises:
        InputError: a file that cannot be used.
        AtlasError: no reference, or no organ is labelled in any.
    """
    if not references:
        raise AtlasError("atlas", "has no references.", "Name at least one annotated CT.")
    config, table = config or registration_config(), table or organ_table()
    images: list[WorkImage] = []
    about: list[Reference] = []
    for number, files in enumerate(references):
        image = read_volume(files.image)
        label = read_labels(files.label, image)
        present = sorted(int(v) for v in np.unique(label.array) if v)
        strange = sorted(set(present) - set(table.indices))
        if strange:
            raise InputError(files.label, f"holds labels {strange} that are not in the organ table.", "Renumber them.")
        images.append(WorkImage.of(image, config.spacing))
        about.append(Reference(files.name, sha256(files.label), tuple(present)))
        progress("reading references", (number + 1) / len(references))
    space = build_common_space(images, config, progress=progress)
    maps = _average_labels(references, space.transforms, space.template, table, missing, progress)
    if not maps:
        raise AtlasError("atlas", "would be empty: no reference has a labelled organ.")
    options = {"missing": missing, "registration": config.model_dump(mode="json")}
    return Atlas(space.template, maps, MAP_SPACING, tuple(about), tuple(space.transforms), options)


def _average_labels(
    references: Sequence[ReferenceFiles],
    transforms: Sequence[Transform],
    template: WorkImage,
    table: OrganTable,
    missing: MissingOrgan,
    progress: Progress,
) -> dict[int, ProbabilityMap]:
    size = (torch.tensor(template.shape) - 1) * template.spacing
    shape = torch.Size(int(n / MAP_SPACING) + 1 for n in size)
    points = grid_points(shape, template.origin, MAP_SPACING).reshape(-1, 3)
    sums = {k: np.zeros(len(points), np.float32) for k in table.indices}
    covered = {k: np.zeros(len(points), np.uint16) for k in table.indices}
    counts = dict.fromkeys(table.indices, 0)
    for number, (files, transform) in enumerate(zip(references, transforms, strict=True)):
        label = read_labels(files.label)
        present = {int(v) for v in np.unique(label.array)}
        known = [k for k in table.indices if k in present or missing == "absent"]
        for start in range(0, len(points), _CHUNK):
            part = slice(start, min(start + _CHUNK, len(points)))
            index, inside = _index_in(label, transform(points[part]))
            for k in known:
                covered[k][part] += inside
                if k in present:
                    sums[k][part] += _mask_values(label.array, k, index)
        for k in present & set(known):
            counts[k] += 1
        progress("averaging labels", (number + 1) / len(references))
    maps = {}
    for k, total in sums.items():
        share = total / np.maximum(covered[k], 1)
        values = np.rint(share * 255).astype(np.uint8).reshape(shape)
        if counts[k] and values.any():
            maps[k] = _cropped(values, template.origin.numpy(), counts[k])
    return maps


def _index_in(label: Volume, world: torch.Tensor) -> tuple[torch.Tensor, np.ndarray]:
    """Continuous voxel indices (x, y, z) of world points in a label map, and whether they lie in its field of view."""
    to_index = torch.from_numpy(np.linalg.inv(label.geometry.matrix)).float()
    index = (world - torch.tensor(label.geometry.origin, dtype=torch.float32)) @ to_index.T
    last = torch.tensor(label.geometry.size, dtype=torch.float32) - 1
    return index, ((index >= -0.5) & (index <= last + 0.5)).all(-1).numpy()


def _mask_values(labels: np.ndarray, k: int, index: torch.Tensor) -> np.ndarray:
    """Trilinear samples of one organ's binary mask, read only in the organ's box."""
    box = occupied(labels == k, margin=1)
    assert box is not None, "only organs that the label map holds are sampled"
    low = torch.tensor([span.start for span in box[::-1]], dtype=torch.float32)
    last = torch.tensor([span.stop - span.start for span in box[::-1]], dtype=torch.float32) - 1
    near = ((index >= low - 1) & (index <= low + last + 1)).all(-1)
    values = np.zeros(len(index), np.float32)
    if near.any():
        unit = (index[near] - low) / last.clamp(min=1) * 2 - 1
        mask = torch.from_numpy((labels[box] == k).astype(np.float32))[None, None]
        sampled = F.grid_sample(mask, unit.view(1, 1, 1, -1, 3), padding_mode="zeros", align_corners=True)
        values[near.numpy()] = sampled.ravel().numpy()
    return values


def _cropped(values: np.ndarray, origin: np.ndarray, count: int) -> ProbabilityMap:
    box = occupied(values, margin=1)
    assert box is not None, "only maps that hold something are kept"
    shift = np.array([span.start for span in box[::-1]], np.float32) * MAP_SPACING
    return ProbabilityMap(np.ascontiguousarray(values[box]), (origin + shift).astype(np.float32), count)
