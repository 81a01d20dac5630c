"""Box prompts for MedSAM2: a range of slices and one or more boxes per organ."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from medsam2_atlas.base.configuration import problems_of, reading_problem
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.volume import Geometry, Volume

Box = tuple[float, float, float, float]
"""A box (x_min, y_min, x_max, y_max) on a slice."""
Entry = TypeVar("Entry", bound="FileEntry")


@dataclass(frozen=True)
class BoxPrompt:
    """A box on one slice, in voxel indices of the LPS volume.

    Attributes:
        z: the slice.
        box: (x_min, y_min, x_max, y_max): the first and last pixels inside the box. Fractions are allowed, because an enlarged
            box may end between pixels.
    """

    z: int
    box: Box

    def __post_init__(self) -> None:
        x_min, y_min, x_max, y_max = self.box
        if not np.isfinite(self.box).all() or x_min > x_max or y_min > y_max:
            raise ValueError(f"{self.box} is not a box (x_min, y_min, x_max, y_max)")


@dataclass(frozen=True)
class OrganPrompt:
    """An organ's prompting region and its boxes, in voxel indices of the LPS volume.

    Attributes:
        label: the organ number.
        z_min: the first slice of the prompting region, included.
        z_max: the last slice of the prompting region, included.
        boxes: the boxes, by ascending slice.
        notes: the fallbacks that were used.
        confidence: the probability that the boxes are good, 0..1; None if unknown. See `confidence.confidence`.
    """

    label: int
    z_min: int
    z_max: int
    boxes: tuple[BoxPrompt, ...]
    notes: tuple[str, ...] = field(default=())
    confidence: float | None = None

    def __post_init__(self) -> None:
        slices = [box.z for box in self.boxes]
        if not slices or slices != sorted(set(slices)):
            raise ValueError(f"label {self.label}: boxes must lie on different slices, by ascending slice")
        if not self.z_min <= slices[0] <= slices[-1] <= self.z_max:
            raise ValueError(f"label {self.label}: boxes on slices {slices} outside {self.z_min}..{self.z_max}")

    @property
    def middle(self) -> BoxPrompt:
        """The box from which propagation starts: the nearest to the middle of the range, the lower one of two."""
        return min(self.boxes, key=lambda box: abs(2 * box.z - self.z_min - self.z_max))

    def as_dict(self) -> dict[str, Any]:
        """Returns the prompt in the form that the command `propagate` reads."""
        return {
            "label": self.label,
            "z_min": self.z_min,
            "z_max": self.z_max,
            "boxes": [{"z": box.z, "box": list(box.box)} for box in self.boxes],
        }


@dataclass(frozen=True)
class PromptOrigin:
    """The origin of an organ's prompt.

    Attributes:
        source: `atlas`, `unet`, or the name of another segmenter.
        reason: the reason for the choice of this source.
    """

    source: str
    reason: str

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"


@dataclass(frozen=True)
class Prompts:
    """The prompts of a target.

    Attributes:
        prompts: one prompt per organ.
        missing: the reason why an organ has no prompt, by organ number.
        origins: the origin of each prompt, by organ number; empty if all prompts have the same source.
    """

    prompts: tuple[OrganPrompt, ...]
    missing: dict[int, str] = field(default_factory=dict)
    origins: dict[int, PromptOrigin] = field(default_factory=dict)


class FileEntry(BaseModel):
    """A part of a file of prompts or marks; unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class BoxEntry(FileEntry):
    """A box in a file; see `BoxPrompt`."""

    z: int
    box: Box


class _Prompt(FileEntry):
    label: int = Field(ge=1, le=255)
    z_min: int
    z_max: int
    boxes: list[BoxEntry]

    @model_validator(mode="after")
    def _consistent(self) -> _Prompt:
        self.value()
        return self

    def value(self) -> OrganPrompt:
        boxes = sorted((BoxPrompt(b.z, b.box) for b in self.boxes), key=lambda b: b.z)
        return OrganPrompt(self.label, self.z_min, self.z_max, tuple(boxes))


def read_entries(path: Path, kind: type[Entry]) -> list[Entry]:
    """Reads a JSON file: a list of entries, or a report with such a list under `prompts`.

    Args:
        path: the file.
        kind: the kind of the entries.

    Raises:
        ValueError: the file cannot be read, or has another form.
    """
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
        return TypeAdapter(list[kind]).validate_python(listed["prompts"] if isinstance(listed, dict) else listed)  # type: ignore[valid-type]
    except (OSError, KeyError, RecursionError) as error:
        raise ValueError(str(error)) from error


def read_prompts(path: Path, geometry: Geometry) -> list[OrganPrompt]:
    """Reads prompts from a JSON file and checks them against the volume's grid.

    The file contains a list of prompts, or a report with such a list under `prompts`.

    Raises:
        InputError: the file has another form, or a prompt lies outside the volume.
    """
    try:
        prompts = [entry.value() for entry in read_entries(path, _Prompt)]
    except ValueError as error:
        reason = problems_of(error) if isinstance(error, ValidationError) else reading_problem(error)
        raise InputError(
            path,
            f"does not contain prompts: {reason}.",
            'Write a list of {"label", "z_min", "z_max", "boxes": [{"z", "box": [x_min, y_min, x_max, y_max]}]}.',
        ) from error
    labels = [p.label for p in prompts]
    if len(set(labels)) != len(labels):
        raise InputError(path, "has two prompts for one label.", "Give all boxes of a label in one prompt.")
    nx, ny, nz = geometry.size
    for p in prompts:
        corners = np.array([b.box for b in p.boxes])
        if p.z_min < 0 or p.z_max >= nz or corners.min() < 0 or corners[:, [0, 2]].max() > nx or corners[:, [1, 3]].max() > ny:
            raise InputError(
                path,
                f"has a prompt for label {p.label} outside the volume of size {geometry.size}.",
                "Give voxel indices of the CT.",
            )
    return prompts


def prompts_from_report(described: Sequence[Mapping[str, Any]]) -> list[OrganPrompt]:
    """Returns the prompts from the field `prompts` of a report.

    Raises:
        pydantic.ValidationError: the field does not contain prompts.
    """
    return [p.value() for p in TypeAdapter(list[_Prompt]).validate_python(list(described))]


def describe_prompts(prompts: Iterable[OrganPrompt], volume: Volume) -> list[dict[str, Any]]:
    """Describes prompts for a report: in the form that `propagate` reads, with world (mm, LPS) and file coordinates added."""
    described = []
    for prompt in prompts:
        entry = prompt.as_dict()
        for box, shown in zip(prompt.boxes, entry["boxes"], strict=True):
            x_min, y_min, x_max, y_max = box.box
            corners = np.array([[x_min, y_min, box.z], [x_max, y_max, box.z]])
            shown["world"] = volume.geometry.to_world(corners).round(2).tolist()
            shown["file_voxels"] = volume.to_file_index(corners).tolist()
        middle = np.array([(volume.geometry.size[0] - 1) / 2, (volume.geometry.size[1] - 1) / 2])
        ends = np.array([[*middle, prompt.z_min], [*middle, prompt.z_max]])
        entry["z_world"] = volume.geometry.to_world(ends)[:, 2].round(2).tolist()
        entry["z_file"] = {
            "axis": "xyz"[volume.slice_axis_in_file],
            "range": sorted(volume.to_file_index(ends)[:, volume.slice_axis_in_file].tolist()),
        }
        entry["notes"] = list(prompt.notes)
        entry["confidence"] = prompt.confidence
        described.append(entry)
    return described
