"""Folders of nnU-Nets: faults are reported with their remedies, and no code of a folder runs."""

from __future__ import annotations

import importlib.util
import os
import zipfile
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunet_folders import checkpoint, dataset, plans, write_folder

from medsam2_atlas.base.errors import InputError, WeightsError
from medsam2_atlas.base.tensor_files import load_tensors
from medsam2_atlas.segmenters.nnunet import read_folder
from medsam2_atlas.studies.models import Models


class Evil:
    """An object that creates a file when it is unpickled."""

    def __init__(self, sign: Path) -> None:
        self.sign = sign

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.sign),)


def missing(folder: Path) -> str:
    return Models({"nnunet:tiny": str(folder), "device": "cpu"}).segmenter("nnunet:tiny").missing()


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretends that the package is installed; checking a folder does not import it."""
    find = importlib.util.find_spec
    spec = ModuleSpec("nnunetv2", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: spec if name == "nnunetv2" else find(name, *more))


def test_a_missing_package_is_reported_with_its_install_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "nnunetv2" else find(name, *more))
    assert 'pip install "medsam2-atlas[nnunet]"' in missing(write_folder(tmp_path / "model"))


@pytest.mark.usefixtures("installed")
def test_a_complete_folder_has_no_missing_requirement_and_lists_its_organs(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model")
    assert missing(folder) == ""
    about = Models({"nnunet:tiny": str(folder)}).segmenter("nnunet:tiny").describe()
    assert about["known_organs"] == ["left_kidney", "liver"]
    assert about["left_out"] == ["femur"]


def without(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def text(name: str, content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(content)


def about(**fields: Any) -> Callable[[Path], object]:
    """Returns a function that changes the only configuration in a folder's plans."""

    def change(folder: Path) -> None:
        content = plans()
        content["configurations"]["tiny"] |= fields
        write_folder(folder, content)

    return change


def data(**fields: Any) -> Callable[[Path], object]:
    return lambda folder: write_folder(folder, data=dataset(**fields))


def fold(**fields: Any) -> Callable[[Path], object]:
    return lambda folder: write_folder(folder, folds={"1": checkpoint({}, **fields)})


def cut(folder: Path) -> None:
    file = folder / "fold_0" / "checkpoint_final.pth"
    file.write_bytes(file.read_bytes()[:500])


FOREIGN = {"network_class_name": "os.system", "arch_kwargs": {}, "_kw_requires_import": []}
FOREIGN_PART = {
    "network_class_name": "torch.nn.Module",
    "arch_kwargs": {"nonlin": "os.system"},
    "_kw_requires_import": ["nonlin"],
}


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("plans.json"), r"model: contains no plans\.json\. Name a folder that nnUNetv2_train made"),
        (without("dataset.json"), r"dataset\.json: cannot be read"),
        (text("dataset.json", "{"), r"dataset\.json: cannot be read"),
        (text("plans.json", "{}"), r"plans\.json: is not one of nnU-Net v2: configurations"),
        (without("fold_0/checkpoint_final.pth"), r"contains no fold_\*/checkpoint_final\.pth\. Let the training finish"),
        (cut, r"checkpoint_final\.pth: cannot be read .* it may be truncated"),
        (fold(init_args=None), r"checkpoint_final\.pth: is not a checkpoint of nnU-Net v2"),
        (fold(trainer_name="another"), "has folds of different trainers"),
        (about(previous_stage="3d_lowres"), "is the second stage of a cascade.*3d_fullres"),
        (data(channel_names={"0": "CT", "1": "PET"}), "needs 2 images; there is one CT"),
        (
            data(labels={"background": 0, "femur": 1}),
            r"dataset\.json: names no organ of the organ table: 'femur'.*organs\.yaml",
        ),
        (text("organs.yaml", "7: liver"), r"organs\.yaml: names the label '7', which the model lacks"),
        (text("organs.yaml", "1: lever"), r"organs\.yaml: names 'lever'"),
        (text("nnunet.yaml", "folds: [3]"), r"has no checkpoint_final\.pth of fold 3"),
        (text("nnunet.yaml", "orientation: RPL"), "'RPL' is not an orientation such as RAS"),
        (text("nnunet.yaml", "fold: [0]"), r"nnunet\.yaml: is not a valid configuration of an nnU-Net: fold"),
    ],
)
def test_each_fault_of_a_folder_is_reported_with_its_remedy(
    tmp_path: Path, change: Callable[[Path], object], message: str
) -> None:
    folder = write_folder(tmp_path / "model")
    change(folder)
    with pytest.raises((InputError, WeightsError), match=message) as refused:
        read_folder(folder)
    assert refused.value.remedy or "nnunet.yaml" in str(refused.value)
    assert missing(folder) == str(refused.value)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("architecture", [FOREIGN, FOREIGN_PART])
def test_plans_may_name_only_parts_of_networks(tmp_path: Path, architecture: dict[str, Any]) -> None:
    folder = write_folder(tmp_path / "model")
    about(architecture=architecture)(folder)
    assert "plans.json: names 'os.system', which is not part of the networks" in missing(folder)
    assert "(bundle:NAME)" in missing(folder)


@pytest.mark.usefixtures("installed")
def test_a_folder_of_several_models_is_refused_with_their_names(tmp_path: Path) -> None:
    write_folder(tmp_path / "Dataset900" / "nnUNetTrainer__nnUNetPlans__2d")
    assert "Name one of its folders: nnUNetTrainer__nnUNetPlans__2d." in missing(tmp_path / "Dataset900")
    assert "is not a folder" in missing(tmp_path / "nowhere")


@pytest.mark.usefixtures("installed")
def test_a_repaired_folder_is_used_at_once(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", data=dataset(labels={"background": 0, "femur": 1}))
    tiny = Models({"nnunet:tiny": str(folder)}).segmenter("nnunet:tiny")
    assert tiny.missing()
    (folder / "organs.yaml").write_text("1: spleen")
    assert not tiny.missing()


@pytest.mark.usefixtures("installed")
def test_code_in_a_checkpoint_does_not_run(tmp_path: Path) -> None:
    sign = tmp_path / "the-code-has-run"
    folder = write_folder(tmp_path / "model", folds={"0": checkpoint({}, logging=Evil(sign))})
    assert "contains code besides weights; the code was not run." in missing(folder)
    assert not sign.exists()


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_checkpoints_with_numbers_of_numpy_1_and_2_are_read(tmp_path: Path, module: str) -> None:
    folder = write_folder(tmp_path / "model")
    file = folder / "fold_0" / "checkpoint_final.pth"
    torch.save(checkpoint({}), file)
    written = b"numpy._core.multiarray" if b"numpy._core.multiarray" in file.read_bytes() else b"numpy.core.multiarray"
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content.replace(written, module.encode()))
    assert read_folder(folder).trainer == "nnUNetTrainer"
    with pytest.raises(WeightsError, match="contains code"):  # other files may not contain NumPy numbers
        load_tensors(file)


@pytest.mark.usefixtures("installed")
def test_old_data_sets_and_plans_are_read(tmp_path: Path) -> None:
    """Old data sets have `modality` instead of `channel_names`; plans of 2.0 to 2.3 name no architecture."""
    content = plans()
    content["configurations"]["small"] = content["configurations"].pop("tiny")
    content["configurations"]["small"].pop("architecture")
    content["configurations"]["tiny"] = {"inherits_from": "small", "UNet_class_name": "PlainConvUNet"}
    old = dataset(modality={"0": "CT"})
    del old["channel_names"]
    assert missing(write_folder(tmp_path / "model", content, old)) == ""
