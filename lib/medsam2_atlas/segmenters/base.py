"""The interface of all segmenters.

A *segmenter* turns a CT into a `Segmentation`: a label map and a typed report. It has a name, reports missing requirements
(`missing`), and lists the inputs that its result depends on (`provenance`). The app, comparison, scoring, batches and active
learning use this interface only. `registry` lists all segmenters. A new one is a module with a subclass of `Segmenter`, and a
line in `registry`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from medsam2_atlas.base.choices import DEFAULT_THRESHOLDS, Loop, Memory, Mode, ThresholdRule
from medsam2_atlas.base.errors import MedSAM2AtlasError
from medsam2_atlas.base.version import package_version
from medsam2_atlas.imaging.hounsfield import CHECK, HuRule
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.segmenters.report import Report, base_report

if TYPE_CHECKING:
    import torch

    from medsam2_atlas.atlas import Atlas
    from medsam2_atlas.base.memory import Ladder
    from medsam2_atlas.medsam2 import Weights
    from medsam2_atlas.prompting import Jitter, MarkedOrgan, MaskedOrgan
    from medsam2_atlas.registration import RegistrationCache
    from medsam2_atlas.scoremaps import ScoreMaps
    from medsam2_atlas.segmenters.open_images import OpenImages
    from medsam2_atlas.unet import UNet

__all__ = ["DEFAULTS", "Options", "Provenance", "Report", "Resources", "Segmentation", "Segmenter", "Validation", "base_report"]

Provenance = dict[str, Any]
"""The inputs of a label map besides the image: versions of atlas, weights and code, options, device. JSON values."""

T = TypeVar("T")


@dataclass(frozen=True)
class Segmentation:
    """The result of a segmenter.

    Attributes:
        labels: organ numbers `[z, y, x]` on the grid of the image.
        report: how the label map was made.
    """

    labels: Volume
    report: Report


@dataclass(frozen=True)
class Options:
    """A user's choices for one run. A segmenter ignores options that it does not use.

    Attributes:
        organs: numbers of the organs to segment; all of the table if empty.
        prompts: source of the first boxes: `atlas` (score maps), `unet` (coarse masks of the U-Net), `both` (the better of
            these two for each organ), or the name of another segmenter that gives coarse masks.
        weights: name of MedSAM2's weights; the default weights if empty.
        loop: propagation loop; see `medsam2.propagation`.
        mode: how MedSAM2 computes: `exact`, or `fast` with approximations; see `medsam2.MedSAM2Volume`.
        thresholds: threshold rule of the prompting regions; see `scoremaps`.
        fill_holes: fill holes in masks, as the official CUDA build does.
        augment: test-time augmentation of U-Nets and nnU-Nets.
        memory: step of the memory ladder: device, and how networks save GPU memory.
        truth: ground truth label map, for the reference strategies only.
        marks: a person's boxes and points on an organ, for `medsam2` only.
        more_marks: boxes and points on further organs of the same CT, for `medsam2` only.
        masked: an organ's current mask with the marks that correct it, for `medsam2` only; it replaces `marks`.
        jitter: displacement of the true prompts, for the reference strategies only; the other strategies refuse it.
    """

    organs: tuple[int, ...] = ()
    prompts: str = "atlas"
    weights: str = ""
    loop: Loop = "symmetric"
    mode: Mode = "exact"
    thresholds: ThresholdRule = DEFAULT_THRESHOLDS
    fill_holes: bool = False
    augment: bool = False
    memory: Memory = ""
    truth: Volume | None = None
    marks: MarkedOrgan | None = None
    more_marks: tuple[MarkedOrgan, ...] = ()
    masked: MaskedOrgan | None = None
    jitter: Jitter | None = None

    @property
    def labels(self) -> list[int]:
        """The numbers of the requested organs."""
        return list(self.organs) or organ_table().indices

    @property
    def all_organs(self) -> bool:
        """Whether all organs are requested. Only such results are stored: some organs must not replace all."""
        return set(self.labels) == set(organ_table().indices)


DEFAULTS = Options()
"""The default choices."""


@dataclass(frozen=True)
class Validation:
    """The quality of a trained segmenter.

    Attributes:
        dice: mean Dice on its validation cases, by organ number.
        cases: number of its training cases, by organ number.
    """

    dice: Mapping[int, float] = field(default_factory=dict)
    cases: Mapping[int, int] = field(default_factory=dict)


class Resources(Protocol):
    """Atlas, networks and folders of all segmenters, loaded once and shared; see `studies.models.Models`.

    Networks are loaded on the CPU, and copied to a device if the caller names one.

    Attributes:
        hu: rule that converts the values of CTs to HU.
    """

    hu: HuRule

    @property
    def ladder(self) -> Ladder:
        """The ladder that runs each case in steps small enough for the free GPU memory."""
        ...

    @property
    def registrations(self) -> RegistrationCache | None:
        """The cache of targets' registrations; None if they are not kept."""
        ...

    @property
    def images(self) -> OpenImages:
        """The CTs that stay open between cases, with their slices encoded for MedSAM2."""
        ...

    def atlas(self) -> Atlas:
        """Returns the atlas; raises AtlasError if there is none."""
        ...

    def score_maps(self, image: Volume, atlas: Atlas) -> ScoreMaps:
        """Returns the score maps of a CT (`[z, y, x]` in HU). The score maps of recent CTs are kept."""
        ...

    def weights(self, name: str = "", device: torch.device | None = None) -> Weights:
        """Returns MedSAM2's weights; raises WeightsError if there are none."""
        ...

    def weight_names(self) -> list[str]:
        """Returns the names of the available weights of MedSAM2, the default first."""
        ...

    def unet(self, name: str, device: torch.device | None = None) -> UNet:
        """Returns a U-Net; raises WeightsError if it has no weights."""
        ...

    def folder(self, name: str) -> Path:
        """Returns the folder that the operator configured for `bundle:NAME` or `nnunet:NAME`; raises InputError if none."""
        ...

    def folders(self) -> Sequence[str]:
        """Returns the names (`bundle:NAME`, `nnunet:NAME`) of all configured folders."""
        ...

    def loaded(self, key: str, files: Sequence[Path], load: Callable[[], T]) -> T:
        """Returns the result of `load`, kept under a key until one of the files changes.

        Args:
            key: name of the result, such as the name of the segmenter.
            files: files that the result depends on.
            load: loads the result.
        """
        ...

    def on_device(self, key: str, network: Any, device: torch.device | None) -> Any:
        """Returns a network on a device. Its method `on` copies it there once.

        Args:
            key: key of the copy; a copy of another network under this key is dropped.
            network: the network on the CPU.
            device: the device; None means the CPU.
        """
        ...

    def at_release(self, drop: Callable[[], None]) -> None:
        """Registers a function that frees a segmenter's GPU memory; it is called when GPU memory runs out."""
        ...

    def segmenter(self, name: str) -> Segmenter:
        """Returns the segmenter of that name, created once; raises InputError if the name is unknown."""
        ...


class Segmenter(ABC):
    """A method that turns a CT into a label map.

    Attributes:
        uses_network: whether it runs a network; subclasses that need no GPU set this to False.
        uses_truth: whether it reads the ground truth.
    """

    uses_network = True
    uses_truth = False

    def __init__(self, name: str, resources: Resources) -> None:
        """Names the segmenter and its resources; loads nothing.

        Args:
            name: its name in the registry.
            resources: source of atlas and networks.
        """
        self.name, self._resources = name, resources

    def missing(self) -> str:
        """Returns the missing requirement and its remedy; an empty string if the segmenter can run. Never uses a GPU."""
        try:
            self.check()
        except (MedSAM2AtlasError, OSError) as error:  # OSError: permissions or disk of a folder have changed
            return str(error)
        return ""

    @abstractmethod
    def check(self) -> None:
        """Loads everything that the segmenter needs.

        Raises:
            MedSAM2AtlasError: if something is missing or cannot be used.
        """

    @abstractmethod
    def provenance(self, options: Options) -> Provenance:
        """Returns the inputs that the result depends on besides the image. Results with equal image and provenance are equal.

        Raises:
            MedSAM2AtlasError: if an option cannot be used, or something is missing.
        """

    @abstractmethod
    def segment(self, volume: Volume, options: Options = DEFAULTS) -> Segmentation:
        """Segments a CT. Progress is reported to `base.progress.current()`.

        Args:
            volume: the CT, `[z, y, x]` in HU.
            options: the user's choices; `options.memory` chooses the device and how networks save memory.

        Returns:
            The label map on the grid of the CT, and the report.

        Raises:
            MedSAM2AtlasError: if something is missing, or the CT or an option cannot be used.
            torch.OutOfMemoryError: if the device has too little memory; `memory.Ladder` then tries again in smaller steps.
        """

    def available_options(self) -> dict[str, Any]:
        """Returns the options that a user may set in a viewer, with their choices or default.

        A viewer shows a list as a drop-down, a text as a text field, and a flag as a checkbox.
        """
        return {"organs": ""}

    def describe(self) -> dict[str, Any]:
        """Returns versions and marks of atlas and weights, for `/info`."""
        return {}

    def used_weights(self) -> dict[str, Any]:
        """Returns file or folder, checksum and mark of the weights, for reports."""
        return {}

    def version(self) -> str:
        """Returns a text that changes with the weights, for the provenance of strategies that it prompts."""
        return ""

    def weights_file(self) -> Path | None:
        """Returns the weights file for download; None if the segmenter has no single file."""
        return None

    def validation(self) -> Validation:
        """Returns the quality on the validation cases; empty if unknown."""
        return Validation()

    def _basis(self, options: Options) -> Provenance:
        """Returns the common part of all provenances. It omits the default HU rule, as earlier releases did."""
        found: Provenance = {"organs": options.labels, "code": package_version()}
        return found if self._resources.hu == CHECK else found | {"hu": str(self._resources.hu)}


def only(labels: np.ndarray, requested: Sequence[int]) -> np.ndarray:
    """Returns a label map `[z, y, x]`, uint8, with all labels except the requested organ numbers set to 0.

    >>> only(np.array([[[0, 1, 6]]]), [6]).tolist()
    [[[0, 0, 6]]]
    """
    kept = np.zeros(labels.shape, np.uint8)
    for z, plane in enumerate(labels):  # slice by slice: NumPy would need eleven times the memory of the label map
        kept[z] = np.where(np.isin(plane, list(requested)), plane, 0)
    return kept
