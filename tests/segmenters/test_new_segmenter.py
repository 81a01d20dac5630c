"""A new segmenter needs one file and one line: all users of the registry then list, run, store and compare it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

from blocks import PATIENT, labelled
from main import MedSAM2AtlasApp
from medsam2_atlas.base.resource import resource
from medsam2_atlas.cli import app
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.segmenters import registry
from medsam2_atlas.segmenters.base import DEFAULTS, Options, Provenance, Segmentation, Segmenter, base_report
from medsam2_atlas.segmenters.registry import Family, models, vocabulary
from medsam2_atlas.studies.models import Models


class Toy(Segmenter):
    """The new file: it labels voxels brighter than 100 HU, except bone, as liver."""

    uses_network = False

    def check(self) -> None:
        """Accepts everything: this segmenter has no requirements."""

    def provenance(self, options: Options) -> Provenance:
        return self._basis(options) | {"toy": 1}

    def segment(self, volume: Volume, options: Options = DEFAULTS) -> Segmentation:
        labels = np.where((volume.array > 100) & (volume.array < 300), 6, 0).astype(np.uint8)
        report = base_report(self.name, volume, labels, options.labels).with_fields(seconds={"total": 0.0}, device="cpu")
        return Segmentation(volume.with_array(labels), report)


LINE = Family("toy", ("toy",), "toy:Toy", "trained", "The liver by its brightness")


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("medsam2_atlas.segmenters.toy")
    module.Toy = Toy  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(registry, "FAMILIES", (*registry.FAMILIES, LINE))


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    labelled(tmp_path / "made", "a", PATIENT)
    (tmp_path / "studies").mkdir()
    shutil.copy(tmp_path / "made" / "images" / "a.nii.gz", tmp_path / "studies" / "a.nii.gz")
    return tmp_path / "studies"


def test_it_has_a_name_and_a_model_and_can_give_prompts() -> None:
    assert "toy" in vocabulary()
    assert "toy" in [model.tag for model in models()]
    models_of_a_server = Models({"device": "cpu"})
    assert isinstance(models_of_a_server.segmenter("toy"), Toy)
    assert "toy" in models_of_a_server.segmenter("D").available_options()["prompts"]


@pytest.fixture
def server_app(studies: Path) -> Iterator[MedSAM2AtlasApp]:
    conf = {"device": "cpu", "learning": "false"}
    made = MedSAM2AtlasApp(str(resource("apps/medsam2_atlas")), str(studies), conf)
    yield made
    made.stop()


def test_the_server_lists_runs_stores_and_compares_it(server_app: MedSAM2AtlasApp, studies: Path) -> None:
    about = server_app.info()
    assert about["models"]["toy"]["description"] == "The liver by its brightness"
    assert "toy" in server_app._compare.config()["second"]
    first = server_app.infer({"model": "toy", "image": "a"})
    stored = sitk.GetArrayFromImage(sitk.ReadImage(str(studies / "labels" / "toy" / "a.nii.gz")))
    assert set(np.unique(stored)) == {0, 6}
    assert first["params"]["report"]["segmenter"] == "toy"
    assert server_app.stored({"model": "toy", "image": "a"}) is not None
    assert set(server_app._missing("toy", "compare")) <= {"compare"}, "a request checks only the models that it names"


def test_commands_run_it(studies: Path, tmp_path: Path) -> None:
    line = ["segment", str(studies / "a.nii.gz"), "--segmenter", "toy", "--device", "cpu", "-o", str(tmp_path / "out.nii.gz")]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 0, done.output
    assert set(np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out.nii.gz"))))) == {0, 6}
