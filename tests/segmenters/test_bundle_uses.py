"""All uses of a bundle as a segmenter: infer task, stored prediction, comparison, source of prompts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
from monailabel.client import MONAILabelClient
from monailabel.client.client import MONAILabelClientException

from app.running import server
from blocks import LIVER, made_studies
from bundles import tiny_bundle
from fake_segmenters import FakeSegmenter
from medsam2_atlas.base.errors import InputError, NotFoundError
from medsam2_atlas.comparison import compare_studies
from medsam2_atlas.imaging.volume import read_volume
from medsam2_atlas.segmenters.base import Options, Segmentation, base_report
from medsam2_atlas.storage import StudyFolder
from medsam2_atlas.studies.models import Models


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    return made_studies(tmp_path)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return tiny_bundle(tmp_path / "bundle")


def test_its_coarse_masks_prompt_medsam2(studies: Path, bundle: Path) -> None:
    models = Models({"device": "cpu", "bundle:own": str(bundle)})
    image, options = read_volume(studies / "a.nii.gz"), Options(organs=(6, 14), prompts="bundle:own")
    strategy = models.segmenter("A")
    report = strategy.segment(image, options).report
    assert report.prompts_from == "bundle:own"
    assert report.prompt_sources == {"liver": "bundle:own: requested"}
    assert report.without_prompt == {"bladder": "the coarse masks do not contain it"}
    assert report.prompter is not None
    assert report.prompter["left_out"] == ["vertebrae"]
    assert report.atlas is None
    assert "bundle:own" in strategy.available_options()["prompts"]


def test_the_provenance_of_a_prompted_strategy_contains_that_of_the_bundle(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = Models({"device": "cpu", "bundle:own": str(bundle)})
    monkeypatch.setattr(models, "atlas", lambda: SimpleNamespace(version="1"))
    made_of = models.segmenter("A").provenance(Options(prompts="bundle:own"))["prompter"]
    assert made_of == models.segmenter("bundle:own").provenance(Options())
    assert "monai" in made_of["packages"], "another version of MONAI may give other masks"
    assert "prompter" not in models.segmenter("A").provenance(Options(prompts="unet"))


def test_it_is_compared_on_the_organs_that_it_segments(studies: Path, bundle: Path) -> None:
    def run(image: object, _: Options) -> Segmentation:
        labels = np.zeros((30, 30, 40), np.uint8)
        labels[LIVER], labels[:4, :4, :4] = 6, 8
        volume = read_volume(studies / "a.nii.gz")
        report = base_report("D", volume, labels, [6, 8]).with_fields(seconds={"total": 1.0})
        return Segmentation(volume.with_array(labels), report)

    folder = StudyFolder(studies)
    models = Models({"device": "cpu", "bundle:own": str(bundle)}, folder.work)
    pair = (FakeSegmenter("D", {}, run), models.segmenter("bundle:own"))
    found = compare_studies(folder, pair, models)
    assert found.models == ("medsam2_atlas", "bundle-own")
    (case,) = found.cases
    assert list(case.scores) == [6], "the bundle does not segment the aorta, so a missing aorta is no disagreement"
    assert list(case.final["bundle-own"]) == [6]
    assert {path.parent.name for path in (studies / "labels").rglob("a.nii.gz")} >= {"bundle-own", "medsam2_atlas"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of a server with studies and two bundles: one complete, one without weights."""
    folder = tmp_path_factory.mktemp("home")
    made_studies(folder)
    tiny_bundle(folder / "bundle")
    (tiny_bundle(folder / "broken") / "models" / "model.pt").unlink()
    return folder


@pytest.fixture(scope="module")
def client(home: Path) -> Iterator[MONAILabelClient]:
    folders = {"bundle:own": str(home / "bundle"), "bundle:broken": str(home / "broken")}
    conf = {"device": "cpu", "learning": "false", "atlas": str(home), **folders}
    with server(home / "studies", home / "server", conf) as connected:
        yield connected


def test_a_server_runs_a_bundle_stores_its_result_and_tolerates_a_broken_one(client: MONAILabelClient, home: Path) -> None:
    studies = home / "studies"
    about = client.info()
    assert about["models"]["bundle-own"]["known_organs"] == ["liver"]
    assert "bundle-broken" not in about["models"]
    assert "is missing" in about["missing"]["bundle-broken"]
    file, answer = client.infer("bundle-own", "a", {})
    label, image = sitk.ReadImage(str(file)), sitk.ReadImage(str(studies / "a.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(label) == 6, sitk.GetArrayFromImage(image) == 120)
    assert answer["report"]["segmenter"] == "bundle:own"
    assert answer["report"]["organs"] == ["liver"]
    assert client.infer("bundle-own", "a", {})[1]["report"]["from_cache"] is True
    assert (studies / "labels" / "bundle-own" / "a.nii.gz").is_file()


def test_clients_cannot_name_folders(client: MONAILabelClient, home: Path) -> None:
    for model in (f"bundle:{home / 'bundle'}", "bundle:own", "bundle-other"):
        with pytest.raises(MONAILabelClientException, match=r"Status: 4(04|22)"):
            client.infer(model, "a", {})
    added = {"bundle:own": str(home / "broken"), "folder": str(home / "broken")}
    _, answer = client.infer("bundle-own", "a", added)
    assert answer["report"]["weights"]["known_organs"] == ["liver"], "additional fields of a client are ignored"
    models = Models({"bundle:own": str(home / "bundle")})
    for name in ("bundle:other", "bundle:../broken", "bundle:"):
        with pytest.raises((InputError, NotFoundError)):
            models.segmenter(name).check()
