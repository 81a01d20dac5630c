"""Runs a trained nnU-Net v2 as a segmenter, with the optional package `nnunetv2`.

The operator configures any model folder that `nnUNetv2_train` made, such as
`Dataset219_AMOS/nnUNetTrainer__nnUNetPlans__3d_fullres`. It contains `dataset.json`, `plans.json` and
`fold_*/checkpoint_final.pth`. `organs.yaml` maps its labels (`organ_labels`), and `nnunet.yaml` next to it chooses orientation
and folds (`NNUNetConfig`).

Nothing in the folder is executed or unpickled: checkpoints are loaded as tensors, and `plans.json` may name only network
classes of installed packages.
"""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256 as digest_of
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from medsam2_atlas.base.configuration import problems_of, read_config
from medsam2_atlas.base.errors import InputError, MedSAM2AtlasError, WeightsError
from medsam2_atlas.base.files import sha256
from medsam2_atlas.base.memory import ran_on
from medsam2_atlas.base.progress import current
from medsam2_atlas.base.tensor_files import load_tensors
from medsam2_atlas.imaging.orientation import AS_FILED
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.segmenters.base import DEFAULTS, Options, Provenance, Segmentation, Segmenter, base_report, only
from medsam2_atlas.segmenters.nnunet_inference import NNUNetModel, build_model, predict
from medsam2_atlas.segmenters.organ_labels import OrganLabels, organ_labels, organs_file

CONFIG_FILE = "nnunet.yaml"
_CHECKPOINT = "checkpoint_final.pth"
_PACKAGES = ("nnunetv2", "dynamic-network-architectures", "torch")
_NETWORKS = ("dynamic_network_architectures.", "nnunetv2.", "torch.nn.", "monai.networks.")
"""Packages whose classes `plans.json` may name. nnU-Net imports and calls these classes."""

_KEPT = ("network_weights", "trainer_name", "inference_allowed_mirroring_axes")
"""Keys of a checkpoint that are kept. The other keys are needed only for further training, and are as large as the weights."""

M = TypeVar("M", bound=BaseModel)


class NNUNetConfig(BaseModel):
    """The content of `nnunet.yaml`: the use of a trained nnU-Net."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    orientation: str = Field(
        "",
        description="orientation of the training images, such as RAS: the directions in which x, y and z increase; `file` "
        "keeps the orientation of each CT's file, as nnU-Net does. By default RAS if the model was trained in RAS, else `file`",
    )
    folds: tuple[int, ...] = Field((), description="folds whose results are averaged; by default all folds in the folder")

    @field_validator("orientation")
    @classmethod
    def _is_known(cls, value: str) -> str:
        sides = [{"R", "L"}, {"A", "P"}, {"S", "I"}]
        if value not in ("", AS_FILED) and not (len(value) == 3 and all(len(set(value) & side) == 1 for side in sides)):
            raise ValueError(f"{value!r} is not an orientation such as RAS or LPS")
        return value


class _Dataset(BaseModel):
    """The fields of `dataset.json` that are used. A label is a number, or a list of numbers for a region."""

    labels: dict[str, int | tuple[int, ...]]
    channel_names: dict[str, str] = Field(default_factory=dict)
    modality: dict[str, str] = Field(default_factory=dict, description="name of `channel_names` in older files")
    regions_class_order: tuple[int, ...] | None = None

    @property
    def names(self) -> dict[int, str]:
        """The label names by value in results. If regions overlap, a voxel gets the value of the last one."""
        used = {name: value for name, value in self.labels.items() if name not in ("background", "ignore")}
        if any(isinstance(value, tuple) and len(value) > 1 for value in used.values()):
            return dict(zip(self.regions_class_order or (), used, strict=False))
        return {value if isinstance(value, int) else value[0]: name for name, value in used.items()}


class _Plans(BaseModel):
    """The fields of `plans.json` that are used."""

    configurations: dict[str, dict[str, Any]]
    image_reader_writer: str = ""

    def resolved(self, name: str) -> dict[str, Any]:
        """Returns a configuration with its inherited settings."""
        found: dict[str, Any] = {}
        visited: set[str] = set()
        while name in self.configurations and name not in visited:
            visited.add(name)
            found = self.configurations[name] | found
            name = str(self.configurations[name].get("inherits_from", ""))
        return found


@dataclass(frozen=True)
class NNUNetFolder:
    """A checked model folder, without its weights.

    Attributes:
        path: the folder.
        dataset: content of `dataset.json`.
        plans: content of `plans.json`.
        checkpoints: checkpoint files of the used folds.
        configuration: name of the configuration in the plans, such as 3d_fullres.
        trainer: name of the trainer's class.
        orientation: see `NNUNetConfig`.
        labels: organs of the model's labels.
    """

    path: Path
    dataset: dict[str, Any]
    plans: dict[str, Any]
    checkpoints: tuple[Path, ...]
    configuration: str
    trainer: str
    orientation: str
    labels: OrganLabels


def read_folder(folder: Path) -> NNUNetFolder:
    """Checks a model folder, without reading the values of its weights.

    Raises:
        InputError: if it is incomplete or not valid, or its model cannot be used here.
        WeightsError: if a checkpoint cannot be read, or contains code.
    """
    if not folder.is_dir():
        raise InputError(folder, "is not a folder.", "Name the folder of a trained nnU-Net.")
    if not (folder / "plans.json").is_file():
        inner = sorted(file.parent.name for file in folder.glob("*/plans.json"))
        remedy = f"Name one of its folders: {', '.join(inner)}." if inner else "Name a folder that nnUNetv2_train made."
        raise InputError(folder, "contains no plans.json.", remedy)
    config_file = _config_file(folder)
    config = (
        NNUNetConfig.model_validate({})
        if config_file is None
        else read_config(NNUNetConfig, config_file, "configuration of an nnU-Net")
    )
    dataset, about = _json(_Dataset, folder / "dataset.json")
    plans, known = _json(_Plans, folder / "plans.json")
    checkpoints = _checkpoints(folder, config.folds)
    heads = [_head(file) for file in checkpoints]
    name, trainer = heads[0]
    if set(heads) != {heads[0]}:
        raise InputError(folder, "has folds of different trainers or configurations.", "Keep the folds of one training.")
    _check_configuration(folder, name, known, about)
    labels = organ_labels(folder, about.names, folder / "dataset.json")
    orientation = config.orientation or ("RAS" if known.image_reader_writer.endswith("WithReorient") else AS_FILED)
    return NNUNetFolder(folder, dataset, plans, checkpoints, name, trainer, orientation, labels)


def deciding_files(folder: Path) -> list[Path]:
    """Returns all files that affect a model's results."""
    found = [folder / "dataset.json", folder / "plans.json", *sorted(folder.glob(f"fold_*/{_CHECKPOINT}"))]
    return [*found, *(file for file in (organs_file(folder), _config_file(folder)) if file is not None)]


def _config_file(folder: Path) -> Path | None:
    places = (folder / CONFIG_FILE, folder.with_name(f"{folder.name}.{CONFIG_FILE}"))
    return next((file for file in places if file.is_file()), None)


def _json(model: type[M], file: Path) -> tuple[dict[str, Any], M]:
    """Returns the content of a JSON file, as plain values and as a model."""
    remedy = "Copy the folder again from where it was trained."
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return content, model.model_validate(content)
    except ValidationError as error:
        raise InputError(file, f"is not one of nnU-Net v2: {problems_of(error)}.", remedy) from error
    except (OSError, ValueError) as error:
        raise InputError(file, f"cannot be read ({error}).", remedy) from error


def _checkpoints(folder: Path, chosen: tuple[int, ...]) -> tuple[Path, ...]:
    """Returns the checkpoints of the chosen folds; by default of all numbered folds, or of `fold_all` if there are none."""
    present = {file.parent.name.removeprefix("fold_"): file for file in folder.glob(f"fold_*/{_CHECKPOINT}")}
    numbered = sorted((name for name in present if name.isdecimal()), key=int)
    if missing := [str(fold) for fold in chosen if str(fold) not in present]:
        raise InputError(folder, f"has no {_CHECKPOINT} of fold {', '.join(missing)}.", f"Correct folds in {CONFIG_FILE}.")
    names = [str(fold) for fold in chosen] or numbered or [name for name in present if name == "all"]
    if not names:
        remedy = "Let the training finish, or rename checkpoint_best.pth to use it."
        raise InputError(folder, f"contains no fold_*/{_CHECKPOINT}.", remedy)
    return tuple(present[name] for name in names)


def _head(file: Path) -> tuple[str, str]:
    """Returns the names of configuration and trainer in a checkpoint, without reading its weights."""
    content = _load(file, mapped=True)
    try:
        assert isinstance(content["network_weights"], Mapping)
        return str(content["init_args"]["configuration"]), str(content["trainer_name"])
    except (AssertionError, KeyError, TypeError) as error:
        raise WeightsError(file, f"is not a checkpoint of nnU-Net v2 ({error!r}).", "Get the file again.") from error


def _load(file: Path, mapped: bool = False) -> Any:
    try:
        return load_tensors(file, numbers=True, mapped=mapped)
    except (MedSAM2AtlasError, MemoryError):
        raise
    except Exception as error:
        problem = f"cannot be read ({str(error).splitlines()[0][:200] if str(error) else type(error).__name__})."
        raise WeightsError(file, problem, "Get the file again; it may be truncated.") from error


def _check_configuration(folder: Path, name: str, plans: _Plans, dataset: _Dataset) -> None:
    """Raises an error for models that cannot be run: cascades, several input images, and networks of other packages."""
    file, configuration = folder / "plans.json", plans.resolved(name)
    if not configuration:
        raise InputError(file, f"lacks the configuration {name}, which the checkpoints name.", "Copy the folder again.")
    if configuration.get("previous_stage"):
        remedy = "Name the folder of 3d_fullres, 3d_lowres or 2d."
        raise InputError(folder, "is the second stage of a cascade, which needs another model's result.", remedy)
    if (images := len(dataset.modality or dataset.channel_names)) != 1:
        raise InputError(folder / "dataset.json", f"needs {images} images; there is one CT.", "Name a model for one CT.")
    foreign = [text for text in _names_of_classes(configuration.get("architecture") or {}) if not text.startswith(_NETWORKS)]
    if foreign:
        problem = f"names {foreign[0][:80]!r}, which is not part of the networks that come with {_PACKAGES[0]}."
        raise InputError(file, problem, "Make a MONAI bundle of it, whose code is executed (bundle:NAME).")


def _names_of_classes(architecture: Mapping[str, Any]) -> Iterator[str]:
    """Yields the names that nnU-Net would import to build a network."""
    yield str(architecture.get("network_class_name", _NETWORKS[0]))
    given = architecture.get("arch_kwargs") or {}
    for key in architecture.get("_kw_requires_import") or ():
        if given.get(key) is not None:
            yield str(given[key])


def _place(file: Path, folder: Path) -> str:
    """Returns a file's relative path in a model's folder, or the path that a file next to the folder would have in it."""
    return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else file.name.removeprefix(f"{folder.name}.")


class NNUNet(Segmenter):
    """The segmenter `nnunet:NAME`. It reads folder and weights again if one of the folder's files has changed."""

    def check(self) -> None:
        """Checks package and folder; the network is built when the first CT is segmented."""
        if importlib.util.find_spec("nnunetv2") is None:
            raise InputError(self.name, "needs the package nnunetv2.", 'Install it: pip install "medsam2-atlas[nnunet]".')
        self._folder()

    def available_options(self) -> dict[str, Any]:
        """Returns the organs, and `augment`: average over mirrored copies."""
        return super().available_options() | {"augment": False}

    def describe(self) -> dict[str, Any]:
        """Returns version, configuration, segmented organs, and the model's labels that are not organs of the table."""
        folder = self._folder()
        return {
            "weights": self.version(),
            "configuration": folder.configuration,
            "orientation": folder.orientation,
            "known_organs": folder.labels.known_names(),
            "left_out": list(folder.labels.left_out),
        }

    def used_weights(self) -> dict[str, Any]:
        """Returns folder, checksum and configuration of the model, and the organs that it segments."""
        folder = self._folder()
        return {
            "file": str(folder.path),
            "sha256": self._digest(),
            "mark": "",
            "trainer": folder.trainer,
            "folds": [file.parent.name for file in folder.checkpoints],
        } | {key: value for key, value in self.describe().items() if key != "weights"}

    def version(self) -> str:
        """Returns twelve digits that change with any file that affects the result."""
        return self._digest()[:12]

    def provenance(self, options: Options) -> Provenance:
        """Returns checksums of all files that affect the result, options, versions of packages, and the device."""
        self.check()
        where = ran_on(self._resources.ladder.device_of(options.memory), medsam2=False, unet=True)
        packages = {name: installed(name) for name in _PACKAGES}
        found = self._basis(options) | {"augment": options.augment, "files": self._checksums(), "packages": packages}
        return found | {"labels": self._mapping()} | where

    def segment(self, volume: Volume, options: Options = DEFAULTS) -> Segmentation:
        """Segments a CT with nnU-Net's sliding windows. Mirroring (`options.augment`) is off by default.

        Networks trained with mirroring confuse left and right more easily, and averaging over mirrored copies hides that.
        """
        self.check()
        folder, device = self._folder(), self._resources.ladder.device_of(options.memory)
        organs = folder.labels.requested(options.labels, self.name)
        model: NNUNetModel = self._resources.on_device(self.name, self._model(), device)
        began = time.perf_counter()
        saves = options.memory in ("small", "smallest")
        values = predict(volume, model, folder.orientation, augment=options.augment, save_memory=saves, progress=current())
        seconds = time.perf_counter() - began
        labels = only(folder.labels.translated(values), organs)
        report = base_report(self.name, volume, labels, organs).with_fields(
            strategy=self.name,
            augment=options.augment and bool(model.mirror_axes),
            seconds={"total": round(seconds, 3)},
            **ran_on(device, medsam2=False, unet=True) | {"device": str(device)},
            weights=self.used_weights(),
            uses_truth=False,
        )
        return Segmentation(volume.with_array(labels), report)

    @property
    def _path(self) -> Path:
        return self._resources.folder(self.name).absolute()

    def _folder(self) -> NNUNetFolder:
        path = self._path
        return self._resources.loaded(f"{self.name} folder", deciding_files(path), lambda: read_folder(path))

    def _model(self) -> NNUNetModel:
        def load() -> NNUNetModel:
            folder = self._folder()
            contents = (_load(file) for file in folder.checkpoints)
            kept = [{key: content[key] for key in _KEPT if key in content} for content in contents]
            return build_model(folder.path, folder.plans, folder.dataset, folder.configuration, kept)

        return self._resources.loaded(f"{self.name} weights", deciding_files(self._path), load)

    def _checksums(self) -> dict[str, str]:
        """Returns the checksums of all files that affect the result, by their relative paths in the folder."""
        folder = self._folder()
        unused = {*folder.path.glob(f"fold_*/{_CHECKPOINT}")} - {*folder.checkpoints}
        files = {_place(file, folder.path): file for file in deciding_files(folder.path) if file not in unused}
        return self._resources.loaded(
            f"{self.name} checksums", list(files.values()), lambda: {place: sha256(file) for place, file in files.items()}
        )

    def _digest(self) -> str:
        return digest_of(json.dumps([self._checksums(), self._mapping()], sort_keys=True).encode()).hexdigest()

    def _mapping(self) -> dict[str, int]:
        """Returns organ numbers by label value. They depend on `configs/segment_names.yaml`, not only on the folder."""
        return {str(value): organ for value, organ in self._folder().labels.organs.items()}
