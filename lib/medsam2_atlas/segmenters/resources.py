"""Provides atlas and networks from memory to segmenters, without a studies folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from medsam2_atlas.atlas import Atlas
from medsam2_atlas.base.errors import AtlasError, InputError, WeightsError
from medsam2_atlas.base.memory import Ladder
from medsam2_atlas.base.progress import current
from medsam2_atlas.imaging.hounsfield import CHECK, HuRule
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.medsam2 import Weights
from medsam2_atlas.registration import RegistrationCache
from medsam2_atlas.scoremaps import ScoreMaps, score_maps
from medsam2_atlas.segmenters.base import Segmenter
from medsam2_atlas.segmenters.open_images import OpenImages
from medsam2_atlas.segmenters.registry import make_segmenter

if TYPE_CHECKING:
    from medsam2_atlas.unet import UNet  # with MONAI, which takes seconds to import

T = TypeVar("T")


class LoadedResources:
    """`Resources` made of objects in memory, as in `segment(Case(image, LoadedResources(atlas, weights)), "D")`."""

    def __init__(
        self,
        atlas: Atlas | None = None,
        weights: Weights | None = None,
        unets: Mapping[str, UNet] | None = None,
        *,
        device: torch.device | None = None,
        hu: HuRule = CHECK,
        registrations: RegistrationCache | None = None,
        images: OpenImages | None = None,
    ) -> None:
        """Keeps the given atlas and networks.

        Args:
            atlas: atlas of the strategies; None if no strategy needs it.
            weights: weights of MedSAM2.
            unets: U-Nets by name, `unet_3d` or `unet_2d`.
            device: device of the networks; by default the CPU.
            hu: rule that converts the values of CTs to HU.
            registrations: cache of targets' registrations; none by default.
            images: the CTs that stay open between cases; by default, as many as `configs/open_images.yaml` allows.
        """
        self.hu, self.registrations = hu, registrations
        self.images = OpenImages() if images is None else images
        self.ladder = Ladder(device or torch.device("cpu"), self.release)
        self._atlas, self._weights, self._unets = atlas, weights, dict(unets or {})
        self._copies: dict[tuple[str, torch.device], Any] = {}
        self._loaded: dict[str, Any] = {}
        self._segmenters: dict[str, Segmenter] = {}
        self._drops: list[Callable[[], None]] = []
        self._scores: tuple[tuple[str, str], ScoreMaps] | None = None

    def release(self) -> None:
        """Frees all GPU memory that is kept between cases."""
        self._copies.clear()
        self.images.close()
        for drop in self._drops:
            drop()

    def atlas(self) -> Atlas:
        """Returns the atlas; raises AtlasError if none was given."""
        if self._atlas is None:
            raise AtlasError(
                "atlas", "is needed for this strategy.", "Name one by --atlas, or make one: medsam2-atlas atlas build."
            )
        return self._atlas

    def score_maps(self, image: Volume, atlas: Atlas) -> ScoreMaps:
        """Returns the score maps of a CT (`[z, y, x]` in HU). The score maps of the last CT are kept."""
        key = (image.digest, atlas.version)
        if self._scores is None or self._scores[0] != key:
            self._scores = (key, score_maps(image, atlas, cache=self.registrations, progress=current()))
        return self._scores[1]

    def weights(self, name: str = "", device: torch.device | None = None) -> Weights:  # noqa: ARG002 - there are no others
        """Returns the weights; raises WeightsError if none were given."""
        if self._weights is None:
            raise WeightsError("weights", "are needed for this strategy.", "Name a checkpoint, or use the strategy `atlas`.")
        found: Weights = self.on_device("weights", self._weights, device)
        return found

    def weight_names(self) -> list[str]:
        """Returns the file name of the weights."""
        return [self.weights().file.name]

    def unet(self, name: str, device: torch.device | None = None) -> UNet:
        """Returns a U-Net; raises WeightsError if none of that name was given."""
        if name not in self._unets:
            raise WeightsError("U-Net", "is needed for these prompts.", "Train it or name its weights, or use the atlas.")
        found: UNet = self.on_device(name, self._unets[name], device)
        return found

    def folder(self, name: str) -> Path:
        """Raises InputError, because these resources contain no folders."""
        raise InputError(name, "has no folder.", "Name the folder on the command line or in the server's settings.")

    def folders(self) -> Sequence[str]:
        """Returns an empty sequence, because these resources contain no folders."""
        return ()

    def loaded(self, key: str, files: Sequence[Path], load: Callable[[], T]) -> T:  # noqa: ARG002 - loaded once
        """Returns the result of `load`, which is called once per key."""
        if key not in self._loaded:
            self._loaded[key] = load()
        found: T = self._loaded[key]
        return found

    def on_device(self, key: str, network: Any, device: torch.device | None) -> Any:
        """Returns a network on a device, to which it is copied once."""
        if device is None or device == network.device:
            return network
        if (key, device) not in self._copies:
            self._copies[key, device] = network.on(device)
        return self._copies[key, device]

    def at_release(self, drop: Callable[[], None]) -> None:
        """Registers a function that frees a segmenter's GPU memory; it is called when GPU memory runs out."""
        self._drops.append(drop)

    def segmenter(self, name: str) -> Segmenter:
        """Returns the segmenter of that name, created once."""
        if name not in self._segmenters:
            self._segmenters[name] = make_segmenter(name, self)
        return self._segmenters[name]
