"""The contract of everything that turns a CT into a label map.

A *segmenter* has a name, tells what keeps it from running (`missing`) and what its result depends on (`provenance`), and gives
a `Segmentation`: a label map and a typed report. The app, comparison, scoring, batches and active learning know nothing else of
it. `registry` lists all of them. A new one is a module with a subclass of `Segmenter`, and a line there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from medsam2_atlas.base.choices import DEFAULT_THRESHOLDS, Loop, Memory, ThresholdRule
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
    from medsam2_atlas.prompting import MarkedOrgan
    from medsam2_atlas.registration import RegistrationCache
    from medsam2_atlas.scoremaps import ScoreMaps
    from medsam2_atlas.unet import UNet

__all__ = ["DEFAULTS", "Options", "Provenance", "Report", "Resources", "Segmentation", "Segmenter", "Validation", "base_report"]

Provenance = dict[str, Any]
"""What a label map depends on besides the image: versions of atlas and weights, options, device, code. JSON values."""

T = TypeVar("T")


@dataclass(frozen=True)
class Segmentation:
    """A label map on the grid of its image, and the report on how it came about."""

    labels: Volume
    report: Report


@dataclass(frozen=True)
class Options:
    """A user's choices for one run. A segmenter ignores those that do not concern it.

    organs: numbers; all of the table if empty. prompts: source of the first boxes: `atlas` (score maps), `unet` (coarse masks
    of the U-Net), `both` (per organ the better of these two), or the name of another segmenter that gives coarse masks.
    weights: name of MedSAM2's weights; the default ones if empty. loop: see `medsam2.propagation`. thresholds: see `scoremaps`.
    fill_holes: as the official CUDA build does. augment: test-time augmentation of the U-Nets. memory: how sparing networks are
    with a GPU's memory. truth: true label map, for the reference strategies only. marks: a person's boxes and points, for
    `medsam2` only.
    """

    organs: tuple[int, ...] = ()
    prompts: str = "atlas"
    weights: str = ""
    loop: Loop = "symmetric"
    thresholds: ThresholdRule = DEFAULT_THRESHOLDS
    fill_holes: bool = False
    augment: bool = False
    memory: Memory = ""
    truth: Volume | None = None
    marks: MarkedOrgan | None = None

    @property
    def labels(self) -> list[int]:
        """Numbers of the requested organs."""
        return list(self.organs) or organ_table().indices

    @property
    def whole(self) -> bool:
        """Returns whether all organs are requested. Only such results are stored: a part must not replace the whole."""
        return set(self.labels) == set(organ_table().indices)


DEFAULTS = Options()
"""The default choices."""


@dataclass(frozen=True)
class Validation:
    """Quality of a trained segmenter: Dice on its validation cases and number of its training cases, per organ number."""

    dice: Mapping[int, float] = field(default_factory=dict)
    cases: Mapping[int, int] = field(default_factory=dict)


class Resources(Protocol):
    """Atlas, networks and folders that segmenters use, loaded once and shared; see `studies.models.Models`.

    Networks are loaded on the processor and copied to a device where one is named.
    """

    hu: HuRule

    @property
    def ladder(self) -> Ladder:
        """Runs cases with as much of a GPU's memory as is free."""
        ...

    @property
    def registrations(self) -> RegistrationCache | None:
        """Where registrations of targets are kept; None if they are not."""
        ...

    def atlas(self) -> Atlas:
        """Returns the atlas; raises AtlasError if there is none."""
        ...

    def score_maps(self, image: Volume, atlas: Atlas) -> ScoreMaps:
        """Returns the score maps of a CT; those of the last CTs are kept."""
        ...

    def weights(self, name: str = "", device: torch.device | None = None) -> Weights:
        """Returns MedSAM2's weights; raises WeightsError if there are none."""
        ...

    def weight_names(self) -> list[str]:
        """Returns the names of weights that may be chosen, the default first."""
        ...

    def unet(self, name: str, device: torch.device | None = None) -> UNet:
        """Returns a U-Net; raises WeightsError if it has no weights."""
        ...

    def folder(self, name: str) -> Path:
        """Returns the folder that the operator named for `bundle:NAME` or `nnunet:NAME`; raises InputError if none."""
        ...

    def folders(self) -> Sequence[str]:
        """Returns the names of all such folders."""
        ...

    def loaded(self, key: str, files: Sequence[Path], load: Callable[[], T]) -> T:
        """Returns what was loaded from files, loaded again if one of them has changed."""
        ...

    def on_device(self, key: str, network: Any, device: torch.device | None) -> Any:
        """Returns a network on a device, copied there once by its method `on`."""
        ...

    def at_release(self, drop: Callable[[], None]) -> None:
        """Registers what is called to drop what a segmenter keeps on a GPU, if memory is short there."""
        ...

    def segmenter(self, name: str) -> Segmenter:
        """Returns a segmenter by name, made once; raises InputError for an unknown name."""
        ...


class Segmenter(ABC):
    """Turns a CT into a label map.

    Subclasses set `uses_network` to False where they need no GPU, and `uses_truth` where they read the true label map.
    """

    uses_network = True
    uses_truth = False

    def __init__(self, name: str, resources: Resources) -> None:
        """
        Args:
            name: in the registry.
            resources: where atlas and networks come from. Nothing is loaded here.
        """
        self.name, self._resources = name, resources

    def missing(self) -> str:
        """Returns what keeps it from running, with the remedy; empty if nothing does. Never asks a GPU."""
        try:
            self.check()
        except (MedSAM2AtlasError, OSError) as error:  # OSError: a folder whose rights or disk have changed
            return str(error)
        return ""

    @abstractmethod
    def check(self) -> None:
        """Loads what it needs.

        Raises:
            MedSAM2AtlasError: something is missing or cannot be used.
        """

    @abstractmethod
    def provenance(self, options: Options) -> Provenance:
        """Returns what its result depends on besides the image: equal for equal results, other where one may differ.

        Raises:
            MedSAM2AtlasError: an option that cannot be used, or something is missing.
        """

    @abstractmethod
    def segment(self, volume: Volume, options: Options = DEFAULTS) -> Segmentation:
        """Returns the label map of a CT on its grid, with the report. Progress goes to `base.progress.current()`.

        Args:
            volume: the CT in HU.
            options: `options.memory` says on which device, and how sparingly, networks run.

        Raises:
            MedSAM2AtlasError: something is missing, or the CT or an option cannot be used.
            torch.OutOfMemoryError: the device has too little memory; `memory.Ladder` then tries again in smaller steps.
        """

    def offers(self) -> dict[str, Any]:
        """Returns the options that a user may choose, for viewers: lists become drop-downs, texts fields, flags boxes."""
        return {"organs": ""}

    def describe(self) -> dict[str, Any]:
        """Returns what users should know of it, for `/info`: versions and marks of atlas and weights."""
        return {}

    def used_weights(self) -> dict[str, Any]:
        """Returns file or folder, checksum and mark of its weights, for reports."""
        return {}

    def version(self) -> str:
        """Returns a text that changes with its weights, for the provenance of what it prompts."""
        return ""

    def weights_file(self) -> Path | None:
        """Returns the file of its weights, if it has a single one that may be downloaded."""
        return None

    def validation(self) -> Validation:
        """Returns its quality on validation cases; empty if unknown."""
        return Validation()

    def _basis(self, options: Options) -> Provenance:
        """Returns the part of a provenance that all have. The default HU rule is left out, as earlier versions did."""
        found: Provenance = {"organs": options.labels, "code": package_version()}
        return found if self._resources.hu == CHECK else found | {"hu": str(self._resources.hu)}


def only(labels: np.ndarray, requested: Sequence[int]) -> np.ndarray:
    """Returns a label map `[z, y, x]` with the requested organs alone, uint8."""
    kept: np.ndarray = np.where(np.isin(labels, list(requested)), labels, 0).astype(np.uint8)
    return kept
