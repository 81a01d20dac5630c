"""Finds and loads atlas, networks and segmenters of a server or a command, and loads them again when their files change.

Networks are loaded on the CPU, so that a server with a full or broken GPU can still describe its models. They are copied to the
GPU when a case is segmented there.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from medsam2_atlas.atlas import Atlas
from medsam2_atlas.base.device import pick_device
from medsam2_atlas.base.errors import AtlasError, InputError, MedSAM2AtlasError, WeightsError
from medsam2_atlas.base.memory import Ladder
from medsam2_atlas.base.progress import current
from medsam2_atlas.imaging.hounsfield import CHECK, HuRule
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.medsam2 import Weights, find_checkpoint, load_weights
from medsam2_atlas.registration import RegistrationCache
from medsam2_atlas.scoremaps import ScoreMaps, score_maps
from medsam2_atlas.segmenters.base import Segmenter
from medsam2_atlas.segmenters.open_images import OpenImages, none_kept
from medsam2_atlas.segmenters.places import find_atlas, find_unet, known_checkpoints
from medsam2_atlas.segmenters.registry import check_folder_name, make_segmenter
from medsam2_atlas.storage import WorkFolder
from medsam2_atlas.studies.growth import atlas_store
from medsam2_atlas.unet import UNetConfig, unet_config

if TYPE_CHECKING:
    from medsam2_atlas.unet import UNet

T = TypeVar("T")

_KEPT_SCORES = 2
"""Number of CTs whose score maps are kept: the CT that an annotator has open, and the CT measured in the background."""


class Models:
    """The resources of segmenters (`segmenters.base.Resources`) of a server or a command.

    It may be used from several threads: one lock guards the caches, and one lock per key prevents loading the same files twice.

    Returned atlases and networks never change. A request ends with the atlas and weights that it began with, even if new ones
    are published meanwhile.
    """

    def __init__(
        self,
        conf: Mapping[str, str],
        work: WorkFolder | None = None,
        hu: HuRule = CHECK,
        *,
        keeps_images: bool = False,
        kept_scores: int = _KEPT_SCORES,
    ) -> None:
        """Checks the names of folders; loads nothing.

        Args:
            conf: paths and names by key: `atlas`, `checkpoint`, `config`, `device`, `unet_2d`, `unet_3d`, `unet_2d_config`,
                `unet_3d_config`, and the folders `bundle:NAME` and `nnunet:NAME`; missing paths are searched for in the default
                locations.
            work: work folder of the studies; None for a command without studies.
            hu: rule that converts the values of CTs to HU, for all models and trainings.
            keeps_images: whether CTs stay open between cases, as for annotators, who correct what was segmented before. A
                command segments each CT once.
            kept_scores: number of CTs whose score maps are kept.

        Raises:
            InputError: if the name of a folder is not valid.
        """
        self.hu = hu
        self.images = OpenImages(None if keeps_images else none_kept)
        self.busy = threading.Lock()
        """The lock that is held while a case is segmented, so that the device runs one case at a time."""
        self._work, self._kept_scores = work, kept_scores
        self._drops: list[Callable[[], None]] = []
        self._segmenters: dict[str, Segmenter] = {}
        self._scores: OrderedDict[tuple[str, str], ScoreMaps] = OrderedDict()
        self._conf = {key: value for key, value in conf.items() if value}
        for name in self.folders():
            check_folder_name(name)
        self._lock = threading.RLock()
        self._loading: dict[str, threading.RLock] = {}
        self._loaded: dict[str, tuple[tuple[tuple[Path, int, int], ...], Any]] = {}
        self._copies: dict[tuple[str, torch.device], tuple[Any, Any]] = {}

    @cached_property
    def device(self) -> torch.device:
        """The device of the networks. The first use tests the GPU; segmenters without a network never use this property."""
        return pick_device(self._conf.get("device") or "auto")

    @cached_property
    def ladder(self) -> Ladder:
        """The ladder that runs each case in steps small enough for the free GPU memory."""
        return Ladder(self.device, self.release)

    def release(self) -> None:
        """Frees all GPU memory that is kept between cases."""
        with self._lock:
            self._copies.clear()
        self.images.close()
        for drop in self._drops:
            drop()

    def at_release(self, drop: Callable[[], None]) -> None:
        """Registers a function that frees a segmenter's GPU memory; `release` calls it."""
        self._drops.append(drop)

    @property
    def work(self) -> WorkFolder:
        """The work folder of the studies.

        Raises:
            ValueError: if there are no studies.
        """
        if self._work is None:
            raise ValueError("these models were loaded without a studies folder")
        return self._work

    @property
    def registrations(self) -> RegistrationCache | None:
        """The cache of the studies' registrations; None if there are no studies."""
        return None if self._work is None else RegistrationCache(self._work.path / "registrations")

    def segmenter(self, name: str) -> Segmenter:
        """Returns the segmenter of that name, created once.

        Raises:
            InputError: if no segmenter has that name, or its folder is not configured.
        """
        with self._lock:
            if name not in self._segmenters:
                if ":" in name:
                    self.folder(name)  # refuses unknown names, so that clients' names cannot fill the memory
                self._segmenters[name] = make_segmenter(name, self)
            return self._segmenters[name]

    def folder(self, name: str) -> Path:
        """Returns the folder that the operator configured for a segmenter, such as `bundle:NAME`.

        Raises:
            InputError: if there is none.
        """
        if name not in self.folders():
            known = ", ".join(self.folders()) or "none"
            raise InputError(
                name, "has no folder.", f"Name it: {name}=FOLDER (--conf of serve, --folder of commands). Known: {known}."
            )
        return Path(self._conf[name])

    def folders(self) -> list[str]:
        """Returns the names (`bundle:NAME`, `nnunet:NAME`) of the configured folders."""
        return [key for key in self._conf if ":" in key]

    def score_maps(self, image: Volume, atlas: Atlas) -> ScoreMaps:
        """Returns the score maps of a CT (`[z, y, x]` in HU). The score maps of the last CTs are kept.

        Raises:
            InputError: if the CT shows no body, or too little of it.
        """
        key = (image.digest, atlas.version)
        with self._lock:
            found = self._scores.get(key)
            if found is not None:
                self._scores.move_to_end(key)
                return found
        found = score_maps(image, atlas, cache=self.registrations, progress=current())
        with self._lock:
            self._scores[key] = found
            while len(self._scores) > self._kept_scores:
                self._scores.popitem(last=False)
        return found

    def forget_score_maps(self) -> None:
        """Drops all kept score maps, so that the next segmenter registers its CT itself, and its cost includes that."""
        with self._lock:
            self._scores.clear()

    def forget_cases(self) -> bool:
        """Drops all kept data of CTs: score maps, encoded slices and results of marked organs.

        Returns:
            Whether no case was running. A running case may keep data of its CT later; the caller then calls this again.
        """
        idle = self.busy.acquire(blocking=False)
        try:
            self.forget_score_maps()
            self.images.close()
        finally:
            if idle:
                self.busy.release()
        return idle

    def base_atlas(self) -> Atlas | None:
        """Returns the configured or default atlas, before any growth; None if there is none."""
        try:
            folder = find_atlas(self._path("atlas"))
        except AtlasError:
            return None
        return self._once("base atlas", [folder / "atlas.json"], lambda: Atlas.load(folder), AtlasError)

    def atlas(self) -> Atlas:
        """Returns the atlas grown from the base atlas and the studies' final labels, or else the base atlas.

        Raises:
            AtlasError: if there is no atlas, or it cannot be read.
        """
        base = self.base_atlas()
        grown = None if self._work is None else atlas_store(self._work).current
        if grown is not None:
            atlas = self._once("grown atlas", [grown / "atlas.json"], lambda: Atlas.load(grown), AtlasError)
            if atlas.options.get("base", "") == (base.version if base else ""):
                return atlas
        if base is None:
            find_atlas(self._path("atlas"))  # raises an error that names the folder
            raise AtlasError("atlas", "is missing.", "Build it again.")
        return base

    def weight_names(self) -> list[str]:
        """Returns the names of the available weights, the default first. Clients choose a name and never a path."""
        default = find_checkpoint(self._path("checkpoint"))
        return [default.name, *(name for name in known_checkpoints() if name != default.name)]

    def weights(self, name: str = "", device: torch.device | None = None) -> Weights:
        """Returns MedSAM2's weights.

        Args:
            name: one of `weight_names`; by default the first.
            device: device to copy them to; by default the CPU.

        Raises:
            InputError: if the name is unknown.
            WeightsError: if there are no weights, or they do not fit the network.
            torch.OutOfMemoryError: if the device has too little memory.
        """
        file = find_checkpoint(self._path("checkpoint"))
        if name and name != file.name:
            if name not in known_checkpoints():
                raise InputError(
                    name, "is not the name of available weights.", f"Choose from: {', '.join(self.weight_names())}."
                )
            file = known_checkpoints()[name]
        config, key = self._conf.get("config"), f"weights {file}"
        loaded = self._once(key, [file], lambda: load_weights(file, config), WeightsError)
        found: Weights = self.on_device(key, loaded, device)
        return found

    def unet(self, name: str, device: torch.device | None = None) -> UNet:
        """Returns a U-Net, with the weights that training published last.

        Args:
            name: name of the U-Net, such as `unet_3d`.
            device: device to copy it to; by default the CPU.

        Raises:
            WeightsError: if it is not trained yet, or its weights cannot be used.
            torch.OutOfMemoryError: if the device has too little memory.
        """
        from medsam2_atlas.unet import load_unet  # MONAI takes seconds to import, and most segmenters do without U-Nets

        trained = None if self._work is None else self._work.path / name / "best.pt"
        file = find_unet(name, self._path(name), trained)
        found: UNet = self.on_device(name, self._once(name, [file], lambda: load_unet(file), WeightsError), device)
        return found

    def unet_config(self, name: str) -> UNetConfig:
        """Returns the training configuration of the U-Net of that name."""
        return unet_config(self._conf.get(f"{name}_config", name))

    def loaded(self, key: str, files: Sequence[Path], load: Callable[[], T]) -> T:
        """Returns the result of `load`, kept under a key until one of the files changes.

        Raises:
            MedSAM2AtlasError: if `load` raises it.
            WeightsError: if `load` raises any other exception, except MemoryError.
        """
        return self._once(key, files, load, WeightsError)

    def on_device(self, key: str, network: Any, device: torch.device | None) -> Any:
        """Returns a network on a device. Its method `on` copies it there once; on the CPU, it is the network itself.

        Args:
            key: key of the copy; a copy of another network under this key is dropped.
            network: the network on the CPU.
            device: the device; None means the CPU.

        Raises:
            torch.OutOfMemoryError: if the device has too little memory.
        """
        if device is None or device.type == "cpu":
            return network
        with self._lock:
            found = self._copies.get((key, device))
            if found is None or found[0] is not network:
                self._copies.pop((key, device), None)  # frees its memory before the new copy needs it
                found = self._copies[key, device] = (network, network.on(device))
        return found[1]

    def _path(self, key: str) -> Path | None:
        return Path(self._conf[key]) if key in self._conf else None

    def _once(self, key: str, files: Sequence[Path], load: Callable[[], T], kind: type[MedSAM2AtlasError]) -> T:
        """Returns the result of `load`, kept under a key until one of the files changes.

        Exceptions other than MedSAM2AtlasError and MemoryError are raised as `kind`.
        """
        try:
            try:
                states = [(file, file.stat()) for file in files]
            except FileNotFoundError:
                return load()  # raises an error with the remedy
            stamp = tuple((file, state.st_mtime_ns, state.st_size) for file, state in states)
            found = self._loaded.get(key)
            if found is None or found[0] != stamp:
                with self._lock:
                    loading = self._loading.setdefault(key, threading.RLock())
                with loading:  # a separate lock for this key, so that a slow folder does not delay the others
                    found = self._loaded.get(key)
                    if found is None or found[0] != stamp:
                        found = self._loaded[key] = (stamp, load())
        except (MedSAM2AtlasError, MemoryError):  # there may be enough memory later
            raise
        except Exception as error:
            raise kind(files[0], f"cannot be loaded ({error}).", "Check its permissions, or create it again.") from error
        loaded: T = found[1]
        return loaded
