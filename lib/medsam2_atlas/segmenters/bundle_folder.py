"""Loads a MONAI bundle's folder: configuration, own scripts, weights, and the organs of its labels.

A bundle's configuration is code: its expressions and its scripts run in this process, so only folders that an operator names
may get here. Its weights are loaded as tensors only. The format: https://docs.monai.io/en/stable/mb_specification.html.
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
"""Suffixes of files that can decide a result wherever they lie; in `models/`, all files but those of `_UNUSED` can."""
_UNUSED = {".ts", ".onnx", ".md"}
_ASIDE = {"docs", "eval", "__pycache__"}
_IMPORTING = threading.RLock()
"""Held while Python looks for modules in a bundle's folder."""


@dataclass(frozen=True)
class BundleModel:
    """A loaded bundle.

    image_key: of the CT in the bundle's dictionaries. channel_first: whether its reader adds the channel. amp: whether its
    evaluator computes in half precision on a GPU. background: whether the first of several channels is the background. sha256:
    of the weights. digest: of all files that can decide the result, and of the organs that its labels are.
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
        """Where the network lies."""
        return next((tensor.device for tensor in self.network.parameters()), CPU)

    def on(self, device: torch.device) -> BundleModel:
        """Returns this bundle with a copy of its network on a device.

        Raises:
            torch.OutOfMemoryError: the device has no memory for it.
        """
        return replace(self, network=copy.deepcopy(self.network).to(device))

    @property
    def version(self) -> str:
        """Twelve digits that change with any file that can decide the result."""
        return self.digest[:12]

    def describe(self) -> dict[str, Any]:
        """Returns its description for reports."""
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
    """Returns the files of a bundle that can decide its result, and its `organs.yaml`. Links are followed.

    Raises:
        InputError: the folder cannot be read.
    """
    found, seen = set(), set()
    try:
        for here, folders, names in os.walk(folder, followlinks=True, onerror=_raise):
            if (real := os.path.realpath(here)) in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = [name for name in folders if name not in _ASIDE and not name.startswith(".")]
            weights = Path(here).is_relative_to(folder / "models")
            for file in (Path(here, name) for name in names):
                if (file.suffix in _DECIDING or (weights and file.suffix not in _UNUSED)) and file.is_file():
                    found.add(file)
    except OSError as error:
        raise InputError(folder, f"cannot be read ({error}).", "Let the user that runs this read it.") from error
    organs = organs_file(folder)
    return sorted(found | ({organs} if organs else set()))


def load_bundle(folder: Path) -> BundleModel:
    """Loads a bundle on the processor. Code of the folder runs.

    Args:
        folder: absolute.

    Raises:
        InputError: its configuration cannot be used, or none of its labels is an organ of the table.
        WeightsError: its weights are missing, hold code, or do not fit its network.
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
        told = json.dumps([files, sorted(organs.organs.items())])
        with _own_modules(folder), torch.random.fork_rng(devices=[]):  # networks draw their first weights
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
                digest=hashlib.sha256(told.encode()).hexdigest(),
                bundle_version=str(about.get("version", "")),
            )
    except (MedSAM2AtlasError, MemoryError):
        raise
    except (Exception, SystemExit) as error:  # code of the folder may raise anything
        raise InputError(config, f"cannot be used: {reason_of(error)}", REMEDY) from error


def _metadata(file: Path) -> Mapping[str, Any]:
    """Returns the bundle's description of itself; empty if it has none: `organs.yaml` may do without."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(file, f"cannot be read ({error}).", "Get it again, or write valid JSON.") from error
    return content if isinstance(content, dict) else {}


def _channels(about: Mapping[str, Any], file: Path) -> tuple[dict[int, str], bool]:
    """Returns the names of labels by their values, and whether the first channel of several is the background.

    Raises:
        InputError: the network takes another input than one CT, or the description is not as MONAI specifies it.
    """
    try:
        formats = about.get("network_data_format", {})
        inputs = formats.get("inputs", {})
        channels = [int(one.get("num_channels", 1)) for one in inputs.values()]
        outputs = formats.get("outputs", {})
        described: Mapping[str, Any] = outputs.get("pred") or next(iter(outputs.values()), {})
        names = {int(channel): str(name) for channel, name in (described.get("channel_def") or {}).items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(file, f"has another `network_data_format` than MONAI specifies ({error}).", "Mend it.") from error
    if channels and channels != [1]:
        raise InputError(file, f"says that the network takes {sum(channels)} images.", "Only bundles for one CT can be used.")
    if len(names) == 1 and plain(names.get(0, "background")) != "background":
        return {1: names[0]}, True  # one mask: 0 and 1
    background = 0 not in names or plain(names[0]) == "background"
    return {value: name for value, name in names.items() if value or not background}, background


@contextmanager
def _own_modules(folder: Path) -> Iterator[None]:
    """Lets Python find the bundle's own modules, such as `scripts`, within the block.

    Afterwards they are forgotten, so that another bundle's modules of the same names are not mistaken for them.

    Raises:
        InputError: another module of such a name is loaded already.
    """
    own = {file.stem for file in folder.glob("*.py")}
    own |= {inner.name for inner in folder.iterdir() if inner.is_dir() and any(inner.rglob("*.py"))} - _ASIDE
    if not own:
        yield
        return
    with _IMPORTING:
        if taken := sorted(own & sys.modules.keys()):
            raise InputError(folder, f"has a module {taken[0]}, as Python itself or a package does.", "Rename the bundle's.")
        writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # nothing is written into the folder
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
