"""All uses of a trained nnU-Net as a segmenter: infer task, stored prediction, comparison, source of prompts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from monailabel.client import MONAILabelClient
from nnunet_folders import by_thresholds, checkpoint, plans, write_folder

from app.running import server
from blocks import LIVER, made_studies
from fake_segmenters import FakeSegmenter
from medsam2_atlas.comparison import compare_studies
from medsam2_atlas.imaging.volume import read_volume
from medsam2_atlas.segmenters.base import Options, Segmentation, base_report
from medsam2_atlas.storage import StudyFolder
from medsam2_atlas.studies.models import Models

pytest.importorskip("nnunetv2")


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    return made_studies(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Writes a model that labels voxels as bright as the blocks as liver."""
    made = write_folder(tmp_path / "model", folds={"0": checkpoint(by_thresholds(plans()))})
    (made / "organs.yaml").write_text("2: liver")
    return made


def test_its_coarse_masks_prompt_medsam2(studies: Path, folder: Path) -> None:
    models = Models({"device": "cpu", "nnunet:own": str(folder)})
    image, options = read_volume(studies / "a.nii.gz"), Options(organs=(6, 14), prompts="nnunet:own")
    strategy = models.segmenter("A")
    report = strategy.segment(image, options).report
    assert report.prompts_from == "nnunet:own"
    assert report.prompt_sources == {"liver": "nnunet:own: requested"}
    assert report.without_prompt == {"bladder": "the coarse masks do not contain it"}
    assert report.prompter is not None
    assert report.prompter["configuration"] == "tiny"
    assert "nnunet:own" in strategy.available_options()["prompts"]


def test_it_is_compared_on_the_organs_that_it_segments(studies: Path, folder: Path) -> None:
    def run(image: object, _: Options) -> Segmentation:
        labels = np.zeros((30, 30, 40), np.uint8)
        labels[LIVER], labels[:4, :4, :4] = 6, 8
        volume = read_volume(studies / "a.nii.gz")
        report = base_report("D", volume, labels, [6, 8]).with_fields(seconds={"total": 1.0})
        return Segmentation(volume.with_array(labels), report)

    store = StudyFolder(studies)
    models = Models({"device": "cpu", "nnunet:own": str(folder)}, store.work)
    found = compare_studies(store, (FakeSegmenter("D", {}, run), models.segmenter("nnunet:own")), models)
    assert found.models == ("medsam2_atlas", "nnunet-own")
    (case,) = found.cases
    assert list(case.scores) == [6], "the model does not segment the aorta, so a missing aorta is no disagreement"


@pytest.fixture
def client(studies: Path, folder: Path, tmp_path: Path) -> Iterator[MONAILabelClient]:
    broken = write_folder(tmp_path / "broken", folds={})
    folders = {"nnunet:own": str(folder), "nnunet:broken": str(broken)}
    conf = {"device": "cpu", "learning": "false", "atlas": str(tmp_path), **folders}
    # The server does not fork here: with nnunetv2, pandas imports numexpr, whose threads would not survive a fork.
    with server(studies, tmp_path / "server", conf, anew=True) as connected:
        yield connected


def test_a_server_runs_an_nnunet_stores_its_result_and_tolerates_a_broken_one(client: MONAILabelClient, studies: Path) -> None:
    about = client.info()
    assert about["models"]["nnunet-own"]["known_organs"] == ["liver"]
    assert "nnunet-broken" not in about["models"]
    assert "contains no fold_*/checkpoint_final.pth" in about["missing"]["nnunet-broken"]
    file, answer = client.infer("nnunet-own", "a", {})
    label, image = sitk.ReadImage(str(file)), sitk.ReadImage(str(studies / "a.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(label) == 6, sitk.GetArrayFromImage(image) == 120)
    assert answer["report"]["segmenter"] == "nnunet:own"
    assert client.infer("nnunet-own", "a", {})[1]["report"]["from_cache"] is True
    assert (studies / "labels" / "nnunet-own" / "a.nii.gz").is_file()
