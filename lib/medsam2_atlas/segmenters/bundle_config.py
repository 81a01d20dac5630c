"""The parts of a MONAI bundle's configuration.

The following parts of `configs/inference.json` (or `.yaml`) are used: `preprocessing`, `network` (or `network_def`), `inferer`,
`postprocessing`, the file of its `CheckpointLoader`, and `amp` of its evaluator. Readers and writers of files are disabled.
`initialize` and `run` are not executed, because they change settings of the process. Creating a part executes code of the
folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from medsam2_atlas.base.errors import InputError, MedSAM2AtlasError, WeightsError
from medsam2_atlas.base.tensor_files import load_tensors

CPU = torch.device("cpu")
REMEDY = "See whether MONAI can run it: python -m monai.bundle run --config_file configs/inference.json."
_WEIGHTS = "models/model.pt"
_FILE_TRANSFORMS = {"LoadImage", "LoadImaged", "SaveImage", "SaveImaged"}


def reason_of(error: BaseException) -> str:
    """Returns the first line of an error's first cause.

    >>> reason_of(ValueError("no such key"))
    'ValueError: no such key.'
    """
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}{f': {lines[0][:200]}' if lines else ''}."


class BundleParts:
    """The parts of a bundle's configuration, created on the CPU; transforms that read or write files are disabled."""

    def __init__(self, folder: Path, config: Path) -> None:
        self._folder, self._config = folder, config
        content = ConfigParser.load_config_file(config)
        self._parser = ConfigParser(content | {"bundle_root": str(folder), "device": CPU})
        self._parser.resolve_macro_and_relative_ids()
        self._components = list(_components(self._parser.get()))
        for _, kind, part in self._components:
            if kind in _FILE_TRANSFORMS:
                part["_disabled_"] = True
            for key in ("device", "sw_device"):
                if "cuda" not in str(part.get(key)) and part.get(key) != "@device":
                    continue
                if "Inferer" in kind:
                    del part[key]  # the default is the image's device
                else:
                    part[key] = "@device"
        self._refuse_other_evaluators()

    def get(self, *names: str, default: Any = None) -> Any:
        """Creates the first part that the configuration contains; returns the default if it contains none.

        Args:
            *names: names of the part, in order of preference.
            default: returned if the configuration contains none of the names.

        Raises:
            InputError: if the configuration contains none of the names, and there is no default.
        """
        name = next((name for name in names if name in self._parser), None)
        if name is None and default is None:
            raise InputError(self._config, f"has no `{names[0]}`.", "Name the folder of a MONAI bundle for inference.")
        return default if name is None else self._parser.get_parsed_content(name)

    def amp(self) -> bool:
        """Returns whether the evaluator uses half precision on a GPU."""
        return "evaluator::amp" in self._parser and bool(self._parser.get_parsed_content("evaluator::amp"))

    def reader(self) -> tuple[str, bool]:
        """Returns the key under which the bundle's reader stores the image, and whether it adds the channel axis."""
        for name, kind, part in self._components:
            if kind == "LoadImaged":
                keys = self._parser.get_parsed_content(f"{name}::keys")
                return keys if isinstance(keys, str) else str(keys[0]), bool(part.get("ensure_channel_first"))
        return "image", False

    def weights(self) -> Path:
        """Returns the weights file that the bundle's `CheckpointLoader` names, by default `models/model.pt`.

        Raises:
            WeightsError: if it is missing, or outside of the folder.
        """
        named = _WEIGHTS
        for name, kind, _ in self._components:
            if kind == "CheckpointLoader":
                named = self._parser.get_parsed_content(f"{name}::load_path")
        file = Path(os.path.normpath(self._folder / named))
        if not file.is_relative_to(self._folder):
            raise WeightsError(file, f"is not in the bundle's folder {self._folder}.", f"Name {_WEIGHTS} in its configuration.")
        if not file.is_file():
            raise WeightsError(file, "is missing.", "Put the bundle's weights there; large_files.yml may name their address.")
        return file

    def network(self, file: Path) -> torch.nn.Module:
        """Returns the network with weights from a file, on the CPU.

        Raises:
            InputError: if the configured network is not a `torch.nn.Module`.
            WeightsError: if the file contains code, or its weights do not fit.
        """
        network = self.get("network", "network_def")
        if not isinstance(network, torch.nn.Module):
            raise InputError(self._config, "has a `network` that is not a torch.nn.Module.", REMEDY)
        key = "model"
        for _, kind, part in self._components:
            if kind == "CheckpointLoader" and isinstance(part.get("load_dict"), dict):
                key = next(iter(part["load_dict"]), key)
        try:
            content = load_tensors(file)
            network.load_state_dict(content.get(key, content))
        except (MedSAM2AtlasError, MemoryError):
            raise
        except Exception as error:  # torch.load raises many kinds
            problem = f"does not contain weights of the network in {self._config.name}: {reason_of(error)}"
            raise WeightsError(file, problem, "Get configuration and weights of the same version.") from error
        return network.to(CPU).eval().requires_grad_(False)

    def _refuse_other_evaluators(self) -> None:
        evaluator = self._parser.get("evaluator")
        if not isinstance(evaluator, dict):
            return
        kind = str(evaluator.get("_target_", "SupervisedEvaluator")).rpartition(".")[2]
        special = [f"a `{key}` of its own" for key in ("prepare_batch", "iteration_update") if evaluator.get(key)]
        if kind != "SupervisedEvaluator":
            special = [f"the evaluator {kind}"]
        if special:
            raise InputError(self._config, f"needs {special[0]}.", "Only bundles for MONAI's SupervisedEvaluator can be used.")


def _components(config: Any, name: str = "") -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yields id, class name and content of each component in a configuration."""
    if isinstance(config, dict) and "_target_" in config:
        yield name, str(config["_target_"]).rpartition(".")[2], config
    inner = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    for key, value in inner:
        yield from _components(value, f"{name}::{key}" if name else str(key))
