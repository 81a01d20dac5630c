"""No checkpoint, cache or configuration runs code, and no call in the project may allow that."""

from __future__ import annotations

import ast
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monailabel.tasks.infer.basic_infer import BasicInferTask
from monailabel.tasks.train.basic_train import BasicTrainTask
from omegaconf import OmegaConf
from typer.testing import CliRunner

from main import MedSAM2AtlasApp
from medsam2_atlas.base.errors import MedSAM2AtlasError, WeightsError
from medsam2_atlas.base.resource import resource
from medsam2_atlas.cli import app
from medsam2_atlas.medsam2 import DEMO, build_network, load_config, load_weights
from medsam2_atlas.medsam2.network import config_names
from medsam2_atlas.unet import TrainingCase, UNetTraining, load_unet
from medsam2_atlas.unet.data import _cached, usable_cases
from tasks.segmenter_task import SegmenterTask
from tasks.unet_trainer import UNetTrainTask
from tiny_unets import block_cases, tiny_unet

TINY = tiny_unet()
UNPICKLING = {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "shelve", "marshal", "jsonpickle", "pandas"}
RUNNING = {"eval", "exec", "compile", "__import__"}
LOADING = {
    "torch.load": {"weights_only": True},
    "np.load": {"allow_pickle": False},
    "numpy.load": {"allow_pickle": False},
}
NEVER = {"torch.jit.load", "torch.hub.load", "torch.package.PackageImporter", "yaml.load", "yaml.unsafe_load", "yaml.full_load"}
NAMES = {
    "CheckpointLoader",
    "load_objects",
    "CacheNTransDataset",
    "LMDBDataset",
    "GDSDataset",
    "ConfigParser",
    "unpack_archive",
}
TRUSTED = {"bundle_config.py": ["monai.bundle.ConfigParser"], "stored_arguments.py": ["pickle"]}
"""Modules with calls that run code: of folders that only an operator can name (docs/own-models.md), and of a cluster's client,
whose files are read only with the checksum that came over its connection (docs/cluster.md)."""


class Evil:
    """An object that creates a folder when it is unpickled."""

    def __init__(self, sign: Path) -> None:
        self.sign = sign

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.sign),)


@pytest.fixture
def sign(tmp_path: Path) -> Iterator[Path]:
    """Yields the path of a folder that code from a file would create; it must not exist after the test."""
    yield tmp_path / "the-code-has-run"
    assert not (tmp_path / "the-code-has-run").exists()


def evil_file(file: Path, sign: Path, *, plain: bool = False) -> Path:
    """Writes a checkpoint that contains code. plain: whether it is a bare pickle, without torch's archive."""
    content = {"model": {"weight": Evil(sign)}, "format": 1, "finished": False, "config": "{}"}
    file.parent.mkdir(parents=True, exist_ok=True)
    if plain:
        file.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, file)
    return file


def python_files() -> list[Path]:
    folders = [resource("apps"), resource("configs").parent / "lib"]
    found = [file for folder in folders for file in folder.rglob("*.py")]
    assert len(found) > 100
    return found


def name_of(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def faults(source: str) -> list[str]:
    """Returns the calls and imports of a module that could run code from a file."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names]
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else names
            found += [module for module in modules if module.split(".")[0] in UNPICKLING]
            if isinstance(node, ast.ImportFrom):
                found += [
                    f"{node.module}.{name}" for name in names if name in NAMES or f"{node.module}.{name}" in {*LOADING, *NEVER}
                ]
        elif isinstance(node, ast.Attribute) and node.attr in NAMES:
            found.append(node.attr)
        elif isinstance(node, ast.Call):
            name = name_of(node.func)
            options = {keyword.arg: getattr(keyword.value, "value", None) for keyword in node.keywords}
            if name in RUNNING or name in NEVER:
                found.append(name)
            found += [
                f"{name} without {key}={value}" for key, value in LOADING.get(name, {}).items() if options.get(key) is not value
            ]
    return found


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(file)",
        "torch.load(file, weights_only=False)",
        "torch.load(file, weights_only=trusted)",
        "np.load(file)",
        "np.load(file, allow_pickle=True)",
        "import pickle",
        "from joblib import load",
        "from torch import load",
        "yaml.load(text)",
        "torch.jit.load(file)",
        "from monai.handlers import CheckpointLoader",
        "eval(text)",
        "shutil.unpack_archive(file)",
    ],
)
def test_the_search_finds_each_way_to_run_a_files_code(source: str) -> None:
    assert faults(source)


def test_nothing_loads_a_file_in_a_way_that_runs_its_code() -> None:
    sources = {file: file.read_text(encoding="utf-8") for file in python_files()}
    assert {file.name: found for file, source in sources.items() if (found := faults(source))} == TRUSTED
    assert [file.name for file, source in sources.items() if "torch.load(" in source] == ["tensor_files.py"]


def test_monai_labels_own_loading_of_weights_is_not_reached() -> None:
    assert not issubclass(SegmenterTask, BasicInferTask)  # torch.load and torch.jit.load
    for part in ("_create_trainer", "_create_evaluator", "partition_datalist", "finalize", "pre_process", "network"):
        assert getattr(UNetTrainTask, part) is not getattr(BasicTrainTask, part)  # CheckpointLoader, lists from any path


@pytest.mark.parametrize("plain", [False, True])
def test_a_checkpoint_with_code_is_refused_and_its_code_does_not_run(tmp_path: Path, sign: Path, plain: bool) -> None:
    file = evil_file(tmp_path / "weights.pt", sign, plain=plain)
    for load in (load_unet, load_weights):
        with pytest.raises(WeightsError, match=r"weights\.pt: contains code besides weights; the code was not run\."):
            load(file)
    words = ["segment", str(tmp_path / "ct.nii.gz"), "--checkpoint", str(file), "--atlas", str(tmp_path), "-o", "x.nii.gz"]
    assert CliRunner().invoke(app, words).exit_code != 0
    assert CliRunner().invoke(app, ["weights", "check", str(file)]).exit_code != 0


def test_code_in_uploads_and_in_the_work_folder_does_not_run(tmp_path: Path, sign: Path) -> None:
    (tmp_path / "studies").mkdir()
    conf = {"device": "cpu", "learning": "false", "atlas": "", "checkpoint": str(evil_file(tmp_path / "c.pt", sign))}
    server_app = MedSAM2AtlasApp(str(resource("apps/medsam2_atlas")), str(tmp_path / "studies"), conf)
    try:
        with pytest.raises(WeightsError, match="contains code"):
            server_app.put_weights("unet_3d", evil_file(tmp_path / "upload.pt", sign))
        best = tmp_path / "studies" / ".medsam2_atlas" / "unet_2d" / "best.pt"
        assert not list((tmp_path / "studies").rglob("*.pt"))
        evil_file(best, sign)
        missing = server_app.info()["missing"]
        assert "contains code" in missing["unet_2d"]
        assert "contains code" in missing["medsam2"]
        assert "unet_2d" not in server_app.info()["models"]
    finally:
        server_app.stop()


@pytest.fixture
def cases(tmp_path: Path) -> list[TrainingCase]:
    return block_cases(tmp_path / "cases", "a")


def test_a_trainings_last_checkpoint_with_code_is_refused(cases: list[TrainingCase], tmp_path: Path, sign: Path) -> None:
    evil_file(tmp_path / "run" / "latest.pt", sign)
    with pytest.raises(WeightsError, match=r"latest\.pt: contains code"):
        UNetTraining(cases, TINY, tmp_path / "run", torch.device("cpu")).run()


def test_code_in_the_training_cache_does_not_run(cases: list[TrainingCase], tmp_path: Path, sign: Path) -> None:
    usable_cases(cases, TINY, tmp_path / "cache")
    (kept,) = (tmp_path / "cache").rglob("*.pt")
    evil_file(kept, sign)
    with pytest.warns(UserWarning, match="Corrupt cache file"):
        assert _cached(cases, TINY, tmp_path / "cache")[0]["name"] == "a"


def test_code_in_an_array_file_does_not_run(tmp_path: Path, sign: Path) -> None:
    from medsam2_atlas.registration.transform import Transform

    np.savez(tmp_path / "t.npz", affine=np.array([Evil(sign)], object))
    with pytest.raises((MedSAM2AtlasError, ValueError)):
        Transform.load(tmp_path / "t.npz")


def test_a_checkpoint_does_not_name_a_configuration_of_its_own(tmp_path: Path, sign: Path) -> None:
    (tmp_path / "evil.yaml").write_text(f"model: {{_target_: os.mkdir, path: {sign}}}")
    for named in (str(tmp_path / "evil.yaml"), "../../evil", "none", ""):
        torch.save({"model": {}, "config": named}, tmp_path / "weights.pt")
        with pytest.raises(WeightsError, match="names the network configuration"):
            load_weights(tmp_path / "weights.pt")


def test_a_configuration_may_only_name_parts_of_the_network(tmp_path: Path, sign: Path) -> None:
    trunk = {"_target_": "sam2.modeling.backbones.hieradet.Hiera", "embed_dim": 96}
    for part in (
        {"_target_": "os.mkdir", "path": str(sign)},
        {"_target_": "sam2.modeling.sam2_base.torch.load", "f": "x"},
        trunk | {"q_stride": [{"_target_": "os.mkdir", "path": str(sign)}]},
        trunk | {"embed_dim": "${elsewhere}"},
    ):
        config = OmegaConf.create({"model": part, "elsewhere": {"_target_": "os.mkdir", "path": str(sign)}})
        with pytest.raises(WeightsError, match="not part of SAM 2"):
            build_network(config)


def test_the_configurations_that_come_with_the_project_can_be_built() -> None:
    assert {DEMO, "sam2.1_hiera_t512"} <= set(config_names())
    assert build_network(load_config(DEMO)) is not None
