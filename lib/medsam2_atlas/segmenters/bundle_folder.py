"""Loads a MONAI bundle's folder: configuration, own scripts, weights, and the organs of its labels.

A bundle's configuration is code: its expressions and scripts run in this process. So only folders that the operator configures
may be loaded. Its weights are loaded as tensors only. Format: https://docs.monai.io/en/stable/mb_specification.html.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from monai.inferers import SimpleInferer

from medsam2_atlas.base.errors import InputError, MedSAM2AtlasError
from medsam2_atlas.base.files import sha256
from medsam2_atlas.imaging.segment_names import plain
from medsam2_atlas.segmenters.bundle_config import CPU, REMEDY, BundleParts, reason_of
from medsam2_atlas.segmenters.organ_labels import OrganLabels, organ_labels, organs_file

_CONFIGS = ("configs/inference.json", "configs/inference.yaml", "configs/inference.yml")
_METADATA = "configs/metadata.json"
_DECIDING = {".json", ".yaml", ".yml", ".py", ".npy", ".npz"}
"""Suffixes of files that can affect a result in any folder. In `models/`, every file except `_UNUSED` can affect it."""
_UNUSED = {".ts", ".onnx", ".md"}
_SKIPPED = {"docs", "eval", "__pycache__"}
_IMPORTING = threading.RLock()
"""The lock that is held while a bundle's folder is on Python's module path."""


@dataclass(frozen=True)
class BundleModel:
    """A loaded bundle.

    Attributes:
        network: the network.
        preprocessing: transforms before the network; they take and return a dictionary.
        inferer: runs the network on a preprocessed image.
        postprocessing: transforms after the network; they take and return a dictionary.
        image_key: key of the CT in the bundle's dictionaries.
        channel_first: whether the bundle's reader adds the channel axis.
        amp: whether the bundle's evaluator uses half precision on a GPU.
        background: whether the first of several channels is the background.
        organs: organs of the label values.
        config: the configuration file.
        weights: the weights file.
        sha256: SHA-256 of the weights.
        digest: SHA-256 over all files that can affect the result, and over `organs`.
        bundle_version: version that the bundle's metadata states; empty if unknown.
    """

    network: torch.nn.Module
    preprocessing: Callable[[dict[str, Any]], dict[str, Any]]
    inferer: Callable[..., Any]
    postprocessing: Callable[[dict[str, Any]], dict[str, Any]]
    image_key: str
    channel_first: bool
    amp: bool
    background: bool
    organs: OrganLabels
    config: Path
    weights: Path
    sha256: str
    digest: str
    bundle_version: str

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return next((tensor.device for tensor in self.network.parameters()), CPU)

    def on(self, device: torch.device) -> BundleModel:
        """Returns this bundle with a copy of its network on a device.

        Raises:
            torch.OutOfMemoryError: if the device has too little memory.
        """
        return replace(self, network=copy.deepcopy(self.network).to(device))

    @property
    def version(self) -> str:
        """The first twelve digits of `digest`."""
        return self.digest[:12]

    def describe(self) -> dict[str, Any]:
        """Returns file, checksum, versions and organs, for reports."""
        return {
            "file": str(self.weights),
            "sha256": self.sha256,
            "mark": "",
            "version": self.version,
            "bundle_version": self.bundle_version,
            "known_organs": self.organs.known_names(),
            "left_out": list(self.organs.left_out),
        }


def deciding_files(folder: Path) -> list[Path]:
    """Returns the files of a bundle that can affect its result, and its `organs.yaml`. Links are followed.

    Raises:
        InputError: if the folder cannot be read.
    """
    found, seen = set(), set()
    try:
        for here, folders, names in os.walk(folder, followlinks=True, onerror=_raise):
            if (real := os.path.realpath(here)) in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = [name for name in folders if name not in _SKIPPED and not name.startswith(".")]
            weights = Path(here).is_relative_to(folder / "models")
            for file in (Path(here, name) for name in names):
                if (file.suffix in _DECIDING or (weights and file.suffix not in _UNUSED)) and file.is_file():
                    found.add(file)
    except OSError as error:
        remedy = "Give the user that runs this program permission to read it."
        raise InputError(folder, f"cannot be read ({error}).", remedy) from error
    organs = organs_file(folder)
    return sorted(found | ({organs} if organs else set()))


def load_bundle(folder: Path) -> BundleModel:
    """Loads a bundle on the CPU. This executes code of the folder.

    Args:
        folder: absolute path of the bundle.

    Raises:
        InputError: if its configuration cannot be used, or none of its labels is an organ of the table.
        WeightsError: if its weights are missing, contain code, or do not fit its network.
    """
    config = next((folder / name for name in _CONFIGS if (folder / name).is_file()), None)
    if config is None:
        raise InputError(folder, f"has no {_CONFIGS[0]}.", "Name the folder of a MONAI bundle for inference.")
    about = _metadata(folder / _METADATA)
    names, background = _channels(about, folder / _METADATA)
    organs = organ_labels(folder, names, folder / _METADATA)
    try:
        sums = {file: sha256(file) for file in deciding_files(folder)}
        files = [[os.path.relpath(file, folder), checksum] for file, checksum in sums.items()]
        hashed = json.dumps([files, sorted(organs.organs.items())])
        with _own_modules(folder), torch.random.fork_rng(devices=[]):  # creating a network draws random initial weights
            parts = BundleParts(folder, config)
            weights = parts.weights()
            image_key, channel_first = parts.reader()
            return BundleModel(
                network=parts.network(weights),
                preprocessing=parts.get("preprocessing", "pre_transforms"),
                inferer=parts.get("inferer", default=SimpleInferer()),
                postprocessing=parts.get("postprocessing", "post_transforms", default=_unchanged),
                image_key=image_key,
                channel_first=channel_first,
                amp=parts.amp(),
                background=background,
                organs=organs,
                config=config,
                weights=weights,
                sha256=sums[weights] if weights in sums else sha256(weights),
                digest=hashlib.sha256(hashed.encode()).hexdigest(),
                bundle_version=str(about.get("version", "")),
            )
    except (MedSAM2AtlasError, MemoryError):
        raise
    except (Exception, SystemExit) as error:  # the bundle's code may raise anything
        raise InputError(config, f"cannot be used: {reason_of(error)}", REMEDY) from error


def _metadata(file: Path) -> Mapping[str, Any]:
    """Returns the bundle's metadata; empty if it has none, since `organs.yaml` can replace it."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(file, f"cannot be read ({error}).", "Get it again, or write valid JSON.") from error
    return content if isinstance(content, dict) else {}


def _channels(about: Mapping[str, Any], file: Path) -> tuple[dict[int, str], bool]:
    """Returns the names of the labels by value, and whether the first of several channels is the background.

    Raises:
        InputError: if the network's input is not one CT, or the metadata do not follow MONAI's specification.
    """
    try:
        formats = about.get("network_data_format", {})
        inputs = formats.get("inputs", {})
        channels = [int(one.get("num_channels", 1)) for one in inputs.values()]
        outputs = formats.get("outputs", {})
        described: Mapping[str, Any] = outputs.get("pred") or next(iter(outputs.values()), {})
        names = {int(channel): str(name) for channel, name in (described.get("channel_def") or {}).items()}
    except (AttributeError, TypeError, ValueError) as error:
        problem = f"has a `network_data_format` that does not follow MONAI's specification ({error})."
        raise InputError(file, problem, "Correct it.") from error
    if channels and channels != [1]:
        raise InputError(file, f"states that the network takes {sum(channels)} images.", "Only bundles for one CT can be used.")
    if len(names) == 1 and plain(names.get(0, "background")) != "background":
        return {1: names[0]}, True  # a binary mask of one organ
    background = 0 not in names or plain(names[0]) == "background"
    return {value: name for value, name in names.items() if value or not background}, background


@contextmanager
def _own_modules(folder: Path) -> Iterator[None]:
    """Makes the bundle's own modules, such as `scripts`, importable within the block.

    Afterwards it unloads them, so that another bundle can have modules of the same names.

    Raises:
        InputError: if another module of such a name is already loaded.
    """
    own = {file.stem for file in folder.glob("*.py")}
    own |= {inner.name for inner in folder.iterdir() if inner.is_dir() and any(inner.rglob("*.py"))} - _SKIPPED
    if not own:
        yield
        return
    with _IMPORTING:
        if taken := sorted(own & sys.modules.keys()):
            problem = f"has a module {taken[0]}, a name that Python or a package already uses."
            raise InputError(folder, problem, "Rename the bundle's module.")
        writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # the folder stays unchanged
        sys.path.insert(0, str(folder))
        importlib.invalidate_caches()
        try:
            yield
        finally:
            sys.path.remove(str(folder))
            sys.dont_write_bytecode = writes
            for name in [name for name in sys.modules if name.partition(".")[0] in own]:
                del sys.modules[name]


def _unchanged(data: dict[str, Any]) -> dict[str, Any]:
    return data


def _raise(error: OSError) -> None:
    raise error
