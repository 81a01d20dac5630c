"""The app in the real MONAI Label server, used through MONAI Label's own client."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from monailabel.client import MONAILabelClient
from monailabel.client.client import MONAILabelClientException

from app.running import server
from medsam2_atlas.atlas import ReferenceFiles
from medsam2_atlas.imaging.labels import organ_table


@pytest.fixture(scope="module")
def studies(short_files: ReferenceFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("studies")
    shutil.copy(short_files.image, folder / "patient.nii.gz")
    return folder


@pytest.fixture(scope="module")
def client(studies: Path, atlas_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MONAILabelClient]:
    with server(studies, tmp_path_factory.mktemp("server"), {"atlas": str(atlas_folder)}, anew=True) as connected:
        yield connected


def test_info_lists_the_models_with_names_and_colours(client: MONAILabelClient) -> None:
    about = client.info()
    assert set(about["models"]) == {"medsam2_atlas", "atlas", "unet_3d", "compare", "medsam2"}
    assert set(about["missing"]) == {"unet_2d"}
    model = about["models"]["medsam2_atlas"]
    assert model["labels"] == {o.name: o.index for o in organ_table().organs}
    assert model["label_colors"]["liver"] == [221, 130, 101]
    assert model["config"]["strategy"] == ["D", "F", "E", "C", "B", "A"]
    assert model["config"]["weights"] == ["medsam2_demo.pt"]
    assert model["config"]["mode"] == ["exact", "fast"]  # viewers show a list as a drop-down menu
    assert model["weights_mark"] == "demo weights: synthetic phantoms only"


def test_a_case_is_picked_segmented_submitted_and_read_back(
    client: MONAILabelClient, studies: Path, short_files: ReferenceFiles
) -> None:
    assert client.next_sample("first", {})["id"] == "patient"
    file, answer = client.infer("medsam2_atlas", "patient", {"strategy": "D", "organs": "liver,right_kidney,spleen"})
    image, label, truth = (sitk.ReadImage(str(f)) for f in (short_files.image, file, short_files.label))
    assert (label.GetSize(), label.GetDirection()) == (image.GetSize(), image.GetDirection())
    found, true = sitk.GetArrayFromImage(label), sitk.GetArrayFromImage(truth)
    assert 2 * ((found == 6) & (true == 6)).sum() / ((found == 6).sum() + (true == 6).sum()) > 0.75
    assert answer["report"]["strategy"] == "D"
    assert answer["report"]["mark"] == "demo weights: synthetic phantoms only"
    assert answer["label_names"] == {"spleen": 1, "right_kidney": 2, "liver": 6}
    client.save_label("patient", file, tag="final")
    back = client.download_label("patient", "final")
    assert (sitk.GetArrayFromImage(sitk.ReadImage(back)) == found).all()
    assert (studies / "labels" / "final" / "patient.nii.gz").is_file()


def test_the_atlas_model_works_without_a_network(client: MONAILabelClient) -> None:
    file, answer = client.infer("atlas", "patient", {})
    assert answer["report"]["weights"] is None
    assert len(np.unique(sitk.GetArrayFromImage(sitk.ReadImage(file)))) >= 14


@pytest.mark.parametrize("wrong", [{"strategy": "reference-3"}, {"organs": "heart"}, {"weights": "/etc/passwd"}])
def test_wrong_options_are_refused(client: MONAILabelClient, wrong: dict[str, str]) -> None:
    with pytest.raises(MONAILabelClientException):
        client.infer("medsam2_atlas", "patient", wrong)


def test_a_server_without_an_atlas_lists_only_models_that_need_none(studies: Path, tmp_path: Path) -> None:
    with server(studies, tmp_path, {"atlas": str(tmp_path / "none")}) as client:
        about = client.info()
        assert set(about["models"]) == {"unet_3d", "medsam2"}
        assert "atlas build" in about["missing"]["medsam2_atlas"]
        assert "atlas build" in about["missing"]["compare"]
        with pytest.raises(MONAILabelClientException):
            client.infer("atlas", "patient", {})
    assert "cannot run" in (tmp_path / "server.log").read_text()
