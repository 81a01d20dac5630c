"""Atlas and weights of a server: found, loaded once, and loaded again when their files change."""

from __future__ import annotations

import threading
from pathlib import Path

from medsam2_atlas.atlas import Atlas
from medsam2_atlas.device import pick_device
from medsam2_atlas.errors import InputError
from medsam2_atlas.medsam2 import Weights, find_checkpoint, load_weights
from medsam2_atlas.places import find_atlas, known_checkpoints


class Models:
    """What infer tasks share. Safe to use from several threads: one lock guards both caches."""

    def __init__(self, atlas: str = "", checkpoint: str = "", config: str = "", device: str = "auto") -> None:
        """Paths from the server's configuration; empty ones are searched for in the usual places."""
        self._atlas_folder = Path(atlas) if atlas else None
        self._checkpoint = Path(checkpoint) if checkpoint else None
        self._config = config or None
        self._device = pick_device(device)
        self._lock = threading.RLock()
        self._atlas: tuple[tuple[Path, float], Atlas] | None = None
        self._weights: dict[tuple[Path, float], Weights] = {}

    def atlas(self) -> Atlas:
        """The atlas.

        Raises:
            AtlasError: none is there, or it cannot be read.
        """
        with self._lock:
            folder = find_atlas(self._atlas_folder)
            file = folder / "atlas.json"
            key = (folder, file.stat().st_mtime if file.is_file() else 0.0)
            if self._atlas is None or self._atlas[0] != key:
                self._atlas = (key, Atlas.load(folder))
            return self._atlas[1]

    def atlas_version(self) -> str:
        """Version of the atlas."""
        return self.atlas().version

    def weight_names(self) -> list[str]:
        """Names that a client may choose among; the default first. Clients never name paths."""
        default = find_checkpoint(self._checkpoint)
        return [default.name, *(name for name in known_checkpoints() if name != default.name)]

    def weights(self, name: str = "") -> Weights:
        """The weights of that name, or the default ones.

        Raises:
            InputError: not one of `weight_names`.
            WeightsError: none found, or they do not fit the network.
        """
        with self._lock:
            file = find_checkpoint(self._checkpoint)
            if name and name != file.name:
                if name not in known_checkpoints():
                    raise InputError(name, "are no weights of this server.", f"Choose from: {', '.join(self.weight_names())}.")
                file = known_checkpoints()[name]
            key = (file, file.stat().st_mtime)
            if key not in self._weights:
                self._weights = {k: w for k, w in self._weights.items() if k[0] != file}
                self._weights[key] = load_weights(file, self._config, self._device)
            return self._weights[key]
