"""Atlas, weights and U-Nets of a server: found, loaded once, and loaded again when their files change."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from medsam2_atlas.atlas import Atlas
from medsam2_atlas.device import pick_device
from medsam2_atlas.errors import AtlasError, InputError, MedSAM2AtlasError, WeightsError
from medsam2_atlas.hounsfield import CHECK, HuRule
from medsam2_atlas.medsam2 import Weights, find_checkpoint, load_weights
from medsam2_atlas.places import find_atlas, find_unet, known_checkpoints
from medsam2_atlas.registration import RegistrationCache
from medsam2_atlas.storage import WorkFolder
from medsam2_atlas.studies import atlas_store
from medsam2_atlas.unet import UNet, UNetConfig, load_unet, unet_config

T = TypeVar("T")

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
        self.device = pick_device(conf.get("device") or "auto")
        self.busy = threading.Lock()
        """Held while a case is segmented: one case at a time on the device."""
        self._conf = {key: value for key, value in conf.items() if value}
        self._lock = threading.RLock()
        self._loaded: dict[str, tuple[tuple[Path, int, int], Any]] = {}

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

    def weights(self, name: str = "", processor: bool = False) -> Weights:
        """The MedSAM2 weights of that name, or the default ones; on the processor where asked.

        Raises:
            InputError: not one of `weight_names`.
            WeightsError: none found, or they do not fit the network.
        """
        file = find_checkpoint(self._path("checkpoint"))
        if name and name != file.name:
            if name not in known_checkpoints():
                raise InputError(name, "are no weights of this server.", f"Choose from: {', '.join(self.weight_names())}.")
            file = known_checkpoints()[name]
        device = torch.device("cpu") if processor else self.device
        config = self._conf.get("config")
        return self._once(f"weights {file} {device}", file, lambda: load_weights(file, config, device), WeightsError)

    def unet(self, name: str, processor: bool = False) -> UNet:
        """The U-Net of that name; what training publishes is served at once. On the processor where asked.

        Raises:
            WeightsError: not trained yet, or its weights cannot be used.
        """
        file = find_unet(name, self._path(name), self.work.path / name / "best.pt")
        device = torch.device("cpu") if processor else self.device
        return self._once(f"{name} {device}", file, lambda: load_unet(file, device), WeightsError)

    def prompting_unet(self, processor: bool = False) -> UNet | None:
        """The U-Net that may prompt MedSAM2: the first of `UNETS` that is there."""
        for name in UNETS:
            try:
                return self.unet(name, processor)
            except WeightsError:
                continue
        return None

    def unet_config(self, name: str) -> UNetConfig:
        """How the U-Net of that name is trained."""
        return unet_config(self._conf.get(f"{name}_config", name))

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
        except (MedSAM2AtlasError, MemoryError, torch.OutOfMemoryError):  # memory may suffice later
            raise
        except Exception as error:
            raise kind(file, f"cannot be loaded ({error}).", "Check its rights, or make it again.") from error
        loaded: T = found[1]
        return loaded
