"""Atlas, networks and segmenters of a server or a command: found, loaded once, and loaded again when their files change.

Networks are loaded on the processor, so that a server with a full or broken GPU can still describe its models. They are copied
to the GPU when a case is segmented there.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

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
from medsam2_atlas.segmenters.places import find_atlas, find_unet, known_checkpoints
from medsam2_atlas.segmenters.registry import check_folder_name, make_segmenter
from medsam2_atlas.storage import WorkFolder
from medsam2_atlas.studies.growth import atlas_store
from medsam2_atlas.unet import UNet, UNetConfig, load_unet, unet_config

T = TypeVar("T")

_KEPT_SCORES = 2
"""CTs whose score maps are kept: the one that an annotator opens, and the one that is measured in the background."""


class Models:
    """The resources of segmenters (`segmenters.base.Resources`). Safe to use from several threads: one lock guards
    the caches, and one for each thing keeps it from being loaded twice.

    Atlases and networks that were handed out stay as they are: a request ends with the atlas and weights that it began with,
    whatever replaces them meanwhile.
    """

    def __init__(self, conf: Mapping[str, str], work: WorkFolder | None = None, hu: HuRule = CHECK) -> None:
        """
        Args:
            conf: `atlas`, `checkpoint`, `config`, `device`, `unet_2d`, `unet_3d`, `unet_2d_config`, `unet_3d_config`, and
                `bundle:NAME` and `nnunet:NAME`, which name folders; paths that are not given are searched for in the usual
                places.
            work: of the studies; None for a command that works on none.
            hu: how the values of CTs become HU, for all models and trainings.

        Raises:
            InputError: a name that no folder can have.
        """
        self.hu = hu
        self.busy = threading.Lock()
        """Held while a case is segmented: one case at a time on the device."""
        self._work = work
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
        """What cases are segmented on. A GPU is tried when this is first asked for; what needs no network never asks."""
        return pick_device(self._conf.get("device") or "auto")

    @cached_property
    def ladder(self) -> Ladder:
        """Runs cases with as much of a GPU's memory as there is."""
        return Ladder(self.device, self.release)

    def release(self) -> None:
        """Drops all that is kept on a GPU; it is made again where it is needed."""
        with self._lock:
            self._copies.clear()
        for drop in self._drops:
            drop()

    def at_release(self, drop: Callable[[], None]) -> None:
        """Registers what is called to drop what a segmenter keeps on a GPU."""
        self._drops.append(drop)

    @property
    def work(self) -> WorkFolder:
        """The work folder of the studies.

        Raises:
            ValueError: there are no studies.
        """
        if self._work is None:
            raise ValueError("these models belong to no folder of studies")
        return self._work

    @property
    def registrations(self) -> RegistrationCache | None:
        """Registrations of the studies; None if there are no studies."""
        return None if self._work is None else RegistrationCache(self._work.path / "registrations")

    def segmenter(self, name: str) -> Segmenter:
        """Returns a segmenter by name, made once.

        Raises:
            InputError: no segmenter has that name, or its folder was not named.
        """
        with self._lock:
            if name not in self._segmenters:
                if ":" in name:
                    self.folder(name)  # so that clients' names fill no memory
                self._segmenters[name] = make_segmenter(name, self)
            return self._segmenters[name]

    def folder(self, name: str) -> Path:
        """Returns the folder that the operator named for a segmenter, such as `bundle:NAME`.

        Raises:
            InputError: none was named.
        """
        if name not in self.folders():
            known = ", ".join(self.folders()) or "none is named"
            raise InputError(
                name, "has no folder.", f"Name it: {name}=FOLDER (--conf of serve, --folder of commands). Known: {known}."
            )
        return Path(self._conf[name])

    def folders(self) -> list[str]:
        """Returns the names of the folders that the operator named."""
        return [key for key in self._conf if ":" in key]

    def score_maps(self, image: Volume, atlas: Atlas) -> ScoreMaps:
        """Returns the score maps of a CT; those of the last CTs are kept for the next caller.

        Raises:
            InputError: the CT shows no body, or too little of it.
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
            while len(self._scores) > _KEPT_SCORES:
                self._scores.popitem(last=False)
        return found

    def base_atlas(self) -> Atlas | None:
        """Returns the atlas that the server was given; None without one."""
        try:
            folder = find_atlas(self._path("atlas"))
        except AtlasError:
            return None
        return self._once("base atlas", [folder / "atlas.json"], lambda: Atlas.load(folder), AtlasError)

    def atlas(self) -> Atlas:
        """Returns the atlas grown from the base and the studies' final labels; the base where none has been grown from it.

        Raises:
            AtlasError: none is there, or it cannot be read.
        """
        base = self.base_atlas()
        grown = None if self._work is None else atlas_store(self._work).current
        if grown is not None:
            atlas = self._once("grown atlas", [grown / "atlas.json"], lambda: Atlas.load(grown), AtlasError)
            if atlas.options.get("base", "") == (base.version if base else ""):
                return atlas
        if base is None:
            find_atlas(self._path("atlas"))  # says where it was looked for
            raise AtlasError("atlas", "is gone.", "Build it again.")
        return base

    def weight_names(self) -> list[str]:
        """Returns the names that a client may choose among; the default first. Clients never name paths."""
        default = find_checkpoint(self._path("checkpoint"))
        return [default.name, *(name for name in known_checkpoints() if name != default.name)]

    def weights(self, name: str = "", device: torch.device | None = None) -> Weights:
        """Returns the MedSAM2 weights of that name, or the default ones; on the processor where no device is named.

        Raises:
            InputError: not one of `weight_names`.
            WeightsError: none found, or they do not fit the network.
            torch.OutOfMemoryError: the device has no memory for them.
        """
        file = find_checkpoint(self._path("checkpoint"))
        if name and name != file.name:
            if name not in known_checkpoints():
                raise InputError(name, "are no weights of this server.", f"Choose from: {', '.join(self.weight_names())}.")
            file = known_checkpoints()[name]
        config, key = self._conf.get("config"), f"weights {file}"
        loaded = self._once(key, [file], lambda: load_weights(file, config), WeightsError)
        found: Weights = self.on_device(key, loaded, device)
        return found

    def unet(self, name: str, device: torch.device | None = None) -> UNet:
        """Returns the U-Net of that name; what training publishes is served at once. On the processor where no device is named.

        Raises:
            WeightsError: not trained yet, or its weights cannot be used.
            torch.OutOfMemoryError: the device has no memory for it.
        """
        trained = None if self._work is None else self._work.path / name / "best.pt"
        file = find_unet(name, self._path(name), trained)
        found: UNet = self.on_device(name, self._once(name, [file], lambda: load_unet(file), WeightsError), device)
        return found

    def unet_config(self, name: str) -> UNetConfig:
        """Returns how the U-Net of that name is trained."""
        return unet_config(self._conf.get(f"{name}_config", name))

    def loaded(self, key: str, files: Sequence[Path], load: Callable[[], T]) -> T:
        """Returns what was loaded from files, loaded again if one of them has changed.

        Raises:
            WeightsError: it cannot be loaded.
        """
        return self._once(key, files, load, WeightsError)

    def on_device(self, key: str, network: Any, device: torch.device | None) -> Any:
        """Returns a network on a device, copied there once by its method `on`; itself on the processor.

        Raises:
            torch.OutOfMemoryError: the device has no memory for it.
        """
        if device is None or device.type == "cpu":
            return network
        with self._lock:
            found = self._copies.get((key, device))
            if found is None or found[0] is not network:
                self._copies.pop((key, device), None)  # before the new one takes its memory
                found = self._copies[key, device] = (network, network.on(device))
        return found[1]

    def _path(self, key: str) -> Path | None:
        return Path(self._conf[key]) if key in self._conf else None

    def _once(self, key: str, files: Sequence[Path], load: Callable[[], T], kind: type[MedSAM2AtlasError]) -> T:
        """Returns the content of files, loaded again if one has changed. Any failure to load raises `kind`."""
        try:
            try:
                states = [(file, file.stat()) for file in files]
            except FileNotFoundError:
                return load()  # raises the error that names the remedy
            stamp = tuple((file, state.st_mtime_ns, state.st_size) for file, state in states)
            found = self._loaded.get(key)
            if found is None or found[0] != stamp:
                with self._lock:
                    loading = self._loading.setdefault(key, threading.RLock())
                with loading:  # of this one alone: a folder that takes long to load keeps nobody from the others
                    found = self._loaded.get(key)
                    if found is None or found[0] != stamp:
                        found = self._loaded[key] = (stamp, load())
        except (MedSAM2AtlasError, MemoryError):  # memory may suffice later
            raise
        except Exception as error:
            raise kind(files[0], f"cannot be loaded ({error}).", "Check its rights, or make it again.") from error
        loaded: T = found[1]
        return loaded
