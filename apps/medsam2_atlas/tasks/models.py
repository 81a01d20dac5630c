"""Atlas, weights and U-Nets of a server: found, loaded once, and loaded again when their files change.

Networks are loaded on the processor, so that a server with a full or broken GPU can still describe its models. They are copied
to the GPU when a case is segmented there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch

from medsam2_atlas.atlas import Atlas
from medsam2_atlas.base.device import pick_device
from medsam2_atlas.base.errors import AtlasError, InputError, MedSAM2AtlasError, WeightsError
from medsam2_atlas.base.memory import Ladder
from medsam2_atlas.imaging.hounsfield import CHECK, HuRule
from medsam2_atlas.medsam2 import Weights, find_checkpoint, load_weights
from medsam2_atlas.registration import RegistrationCache
from medsam2_atlas.segmenters.places import find_atlas, find_unet, known_checkpoints
from medsam2_atlas.storage import WorkFolder
from medsam2_atlas.studies import atlas_store
from medsam2_atlas.unet import UNet, UNetConfig, load_unet, unet_config

T = TypeVar("T")
Network = TypeVar("Network", Weights, UNet)

UNETS = ("unet_3d", "unet_2d")


class Models:
    """What tasks share. Safe to use from several threads: one lock guards the caches.

    What was handed out stays as it is: a request ends with the atlas and weights that it began with, whatever replaces
    them meanwhile.
    """

    def __init__(self, conf: Mapping[str, str], work: WorkFolder, hu: HuRule = CHECK) -> None:
        """
        Args:
            conf: `atlas`, `checkpoint`, `config`, `device`, `unet_2d`, `unet_3d`, `unet_2d_config`, `unet_3d_config`;
                paths that are not given are searched for in the usual places.
            work: of the studies.
            hu: how the values of CTs become HU, for all models and trainings.
        """
        self.work, self.hu = work, hu
        self.busy = threading.Lock()
        """Held while a case is segmented: one case at a time on the device."""
        self.kept_on_device: list[Callable[[], None]] = []
        """Called to drop what others keep on the device, where its memory does not suffice."""
        self._conf = {key: value for key, value in conf.items() if value}
        self._lock = threading.RLock()
        self._loaded: dict[str, tuple[tuple[Path, int, int], Any]] = {}
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
        for drop in self.kept_on_device:
            drop()

    @property
    def registrations(self) -> RegistrationCache:
        """Registrations of the studies."""
        return RegistrationCache(self.work.path / "registrations")

    def base_atlas(self) -> Atlas | None:
        """The atlas that the server was given; None without one."""
        try:
            folder = find_atlas(self._path("atlas"))
        except AtlasError:
            return None
        return self._once("base atlas", folder / "atlas.json", lambda: Atlas.load(folder), AtlasError)

    def atlas(self) -> Atlas:
        """The atlas grown from the base and the studies' final labels; the base where none has been grown from it.

        Raises:
            AtlasError: none is there, or it cannot be read.
        """
        base = self.base_atlas()
        grown = atlas_store(self.work).current
        if grown is not None:
            atlas = self._once("grown atlas", grown / "atlas.json", lambda: Atlas.load(grown), AtlasError)
            if atlas.options.get("base", "") == (base.version if base else ""):
                return atlas
        if base is None:
            find_atlas(self._path("atlas"))  # says where it was looked for
            raise AtlasError("atlas", "is gone.", "Build it again.")
        return base

    def weight_names(self) -> list[str]:
        """Names that a client may choose among; the default first. Clients never name paths."""
        default = find_checkpoint(self._path("checkpoint"))
        return [default.name, *(name for name in known_checkpoints() if name != default.name)]

    def weights(self, name: str = "", device: torch.device | None = None) -> Weights:
        """The MedSAM2 weights of that name, or the default ones; on the processor where no device is named.

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
        return self._on(key, self._once(key, file, lambda: load_weights(file, config), WeightsError), device)

    def unet(self, name: str, device: torch.device | None = None) -> UNet:
        """The U-Net of that name; what training publishes is served at once. On the processor where no device is named.

        Raises:
            WeightsError: not trained yet, or its weights cannot be used.
            torch.OutOfMemoryError: the device has no memory for it.
        """
        file = find_unet(name, self._path(name), self.work.path / name / "best.pt")
        return self._on(name, self._once(name, file, lambda: load_unet(file), WeightsError), device)

    def prompting_unet(self, device: torch.device | None = None) -> UNet | None:
        """The U-Net that may prompt MedSAM2: the first of `UNETS` that is there."""
        for name in UNETS:
            try:
                return self.unet(name, device)
            except WeightsError:
                continue
        return None

    def unet_config(self, name: str) -> UNetConfig:
        """How the U-Net of that name is trained."""
        return unet_config(self._conf.get(f"{name}_config", name))

    def _on(self, key: str, loaded: Network, device: torch.device | None) -> Network:
        """Returns a network on a device, copied there once."""
        if device is None or device.type == "cpu":
            return loaded
        with self._lock:
            found = self._copies.get((key, device))
            if found is None or found[0] is not loaded:
                self._copies.pop((key, device), None)  # before the new one takes its memory
                found = self._copies[key, device] = (loaded, loaded.on(device))
        copied: Network = found[1]
        return copied

    def _path(self, key: str) -> Path | None:
        return Path(self._conf[key]) if key in self._conf else None

    def _once(self, key: str, file: Path, load: Callable[[], T], kind: type[MedSAM2AtlasError]) -> T:
        """Returns the content of a file, loaded again if the file has changed. Any failure to load raises `kind`."""
        try:
            try:
                state = file.stat()
            except FileNotFoundError:
                return load()  # raises the error that names the remedy
            stamp = (file, state.st_mtime_ns, state.st_size)
            found = self._loaded.get(key)
            if found is None or found[0] != stamp:
                with self._lock:
                    found = self._loaded.get(key)
                    if found is None or found[0] != stamp:
                        found = self._loaded[key] = (stamp, load())
        except (MedSAM2AtlasError, MemoryError):  # memory may suffice later
            raise
        except Exception as error:
            raise kind(file, f"cannot be loaded ({error}).", "Check its rights, or make it again.") from error
        loaded: T = found[1]
        return loaded
