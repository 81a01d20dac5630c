"""CTs that stay open between cases: their slices remain encoded, so that a correction only propagates again.

A server's prompted strategies and its interactive task share them. An annotator who corrects an organ after the automatic
segmentation finds the slices encoded. The memory is limited (`open_images_config`): the CTs that were used longest ago are
closed first, and a CT that exceeds the limit alone is closed after its case.

Safe for several threads. One lock guards the list. Each CT has a lock of its own, which is held while the CT is used; it is
taken before the list's lock, never after it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from medsam2_atlas.base.choices import Memory, Mode
from medsam2_atlas.base.memory import free_gpu_memory
from medsam2_atlas.imaging.hounsfield import HuRule
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.medsam2 import MedSAM2Volume, Weights
from medsam2_atlas.segmenters.last_image import LastImage
from medsam2_atlas.segmenters.mark_results import MarkResults
from medsam2_atlas.segmenters.open_images_config import open_images_config

_GIB, _CPU = 2**30, torch.device("cpu")


@dataclass(frozen=True)
class _Key:
    """What encoded slices depend on: voxels, weights, device, step of the memory ladder, and mode."""

    image: str
    weights: str
    device: str
    memory: Memory
    mode: Mode

    @property
    def place(self) -> str:
        """The device that stores the slices; the smaller steps of the memory ladder store them in main memory."""
        return "cpu" if self.memory in ("small", "smallest") else self.device


class OpenImage:
    """A CT prepared for MedSAM2, with the results of its marked organs. Made by `OpenImages.open`.

    It stays usable after it was closed; its memory is then freed with the last reference to it.

    Attributes:
        weights: the weights for which it was prepared.
        results: the results of its marked organs.
    """

    def __init__(self, key: _Key, prepared: MedSAM2Volume, weights: Weights, after: Callable[[], None]) -> None:
        self.key, self.weights, self.results = key, weights, MarkResults()
        self._prepared, self._after, self._lock = prepared, after, threading.RLock()

    @contextmanager
    def used(self) -> Iterator[MedSAM2Volume]:
        """Yields the prepared CT to one thread at a time; afterwards, CTs that exceed the memory are closed."""
        with self._lock:
            try:
                yield self._prepared
            finally:
                self._after()

    @property
    def bytes(self) -> int:
        """The memory of the CT's voxels, encoded slices and results."""
        return self._prepared.bytes + self.results.bytes

    @property
    def slice_bytes(self) -> float:
        """The mean memory of an encoded slice; 0 before the first one is encoded."""
        return self._prepared.slice_bytes


class OpenImages:
    """The open CTs of a process.

    Args:
        max_bytes: returns the memory for open CTs on a device, in bytes; by default, `configured_bytes`.
    """

    def __init__(self, max_bytes: Callable[[torch.device], int] | None = None) -> None:
        self._max_bytes = max_bytes or configured_bytes
        self._lock = threading.Lock()
        self._open: OrderedDict[_Key, OpenImage] = OrderedDict()
        self._last = LastImage()

    def read(self, path: Path, rule: HuRule) -> Volume:
        """Returns a CT in HU, `[z, y, x]`. The last CT is kept until its file changes, if it fits into the memory.

        Args:
            path: file, or folder of a series.
            rule: how values become HU.

        Raises:
            InputError: the CT cannot be read, or its values are not HU.
        """
        found = self._last.read(path, rule)
        self.trim()
        return found

    def open(self, image: Volume, weights: Weights, *, memory: Memory = "", mode: Mode = "exact") -> OpenImage:
        """Returns a CT prepared for MedSAM2; the open one if there is one.

        Args:
            image: the CT, `[z, y, x]` in HU.
            weights: the weights, on the device of the case.
            memory: the step of the memory ladder.
            mode: the mode of the engine; see `MedSAM2Volume`.
        """
        key = _Key(image.digest, weights.sha256, str(weights.device), memory, mode)
        with self._lock:
            found = self._open.get(key)
            if found is not None:
                self._open.move_to_end(key)
                return found
            closed = self._make_room(key, weights, len(image.array))
        if closed and weights.device.type == "cuda":
            free_gpu_memory()
        found = OpenImage(key, MedSAM2Volume(weights, image.array, memory=memory, mode=mode), weights, self.trim)
        with self._lock:
            return self._open.setdefault(key, found)  # another thread may have opened it meanwhile

    def trim(self) -> None:
        """Closes the CTs that exceed the memory, those that were used longest ago first."""
        with self._lock:
            if self._last.bytes > self._max_bytes(_CPU):
                self._last.close()
            for place in {key.place for key in self._open}:
                left = self._left(place)
                for key in [key for key in reversed(self._open) if key.place == place]:
                    size = self._open[key].bytes
                    if size > left:
                        del self._open[key]
                    else:
                        left -= size

    def close(self) -> None:
        """Closes all CTs: a GPU needs their memory, or a study was erased."""
        with self._lock:
            self._open.clear()
            self._last.close()

    @property
    def bytes(self) -> int:
        """The memory of all open CTs."""
        with self._lock:
            return sum(one.bytes for one in self._open.values()) + self._last.bytes

    def __len__(self) -> int:
        return len(self._open)

    def _make_room(self, key: _Key, weights: Weights, slices: int) -> bool:
        """Closes CTs before a new one of `slices` slices needs their memory; returns whether any was closed.

        CTs of weights that were replaced are closed too, because nobody can ask for them again. A slice is expected to need
        as much memory as those of the open CTs.
        """
        before = len(self._open)
        for other in [k for k, one in self._open.items() if _replaced(one.weights, weights)]:
            del self._open[other]
        beside = [k for k in self._open if k.place == key.place]
        expected = slices * max((self._open[k].slice_bytes for k in beside), default=0.0)
        left = self._left(key.place) - expected
        used = sum(self._open[k].bytes for k in beside)
        for other in beside:
            if used <= left:
                break
            used -= self._open.pop(other).bytes
        return len(self._open) < before

    def _left(self, place: str) -> int:
        """Returns the memory of a device for encoded slices, in bytes."""
        return self._max_bytes(torch.device(place)) - (self._last.bytes if place == "cpu" else 0)


def configured_bytes(device: torch.device) -> int:
    """Returns the memory for open CTs on a device, in bytes, according to `configs/open_images.yaml`."""
    config = open_images_config()
    if device.type == "cuda":
        return int(config.max_gpu_share * torch.cuda.get_device_properties(device).total_memory)
    return int(config.max_gib * _GIB)


def none_kept(_: torch.device) -> int:
    """Returns 0: no CT stays open. For processes that segment each CT once."""
    return 0


def _replaced(old: Weights, new: Weights) -> bool:
    """Returns whether the file of weights was replaced."""
    return old.file == new.file and old.sha256 != new.sha256
