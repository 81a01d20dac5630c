"""The loop through the real server and MONAI Label's own client: pre-annotate, compare, submit, train, choose, score."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import SimpleITK as sitk
from monailabel.client import MONAILabelClient

from app.running import server
from medsam2_atlas.atlas import ReferenceFiles
from tiny_unets import small_unet_file
from waiting import until

ENDED = ("DONE", "ERROR", "STOPPED")


@pytest.fixture(scope="module")
def phantoms(references: list[ReferenceFiles], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns five sample patients that are not in the atlas, cropped from below the kidneys to above the liver."""
    folder = tmp_path_factory.mktemp("phantoms")
    for number, files in enumerate(references[3:]):
        label = sitk.DICOMOrient(sitk.ReadImage(str(files.label)), "LPS")
        image = sitk.DICOMOrient(sitk.ReadImage(str(files.image)), "LPS")
        seen = np.flatnonzero((sitk.GetArrayViewFromImage(label) == 6).any((1, 2)))
        slab = slice(int(seen[0]) - 8, int(seen[-1]) + 4)
        for kind, volume in (("images", image), ("labels", label)):
            (folder / kind).mkdir(exist_ok=True)
            sitk.WriteImage(volume[:, :, slab], str(folder / kind / f"{number}.nii.gz"))
    return folder


@pytest.fixture(scope="module")
def studies(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("studies")
    for number, file in enumerate(sorted((phantoms / "images").iterdir())):
        shutil.copy(file, folder / f"patient-{number}.nii.gz")
    return folder


def truth_of(phantoms: Path, study: str) -> Path:
    return sorted((phantoms / "labels").iterdir())[int(study.split("-")[1])]


@pytest.fixture(scope="module")
def client(studies: Path, atlas_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MONAILabelClient]:
    work = tmp_path_factory.mktemp("server")
    small_unet_file(work / "small.yaml", epochs=40, patches_per_case=4, validate_every=5, learning_rate=0.01)
    conf = {"atlas": str(atlas_folder), "unet_3d_config": str(work / "small.yaml"), "foundation": "atlas"}
    with server(studies, work, conf) as connected:
        yield connected


def train_status(client: MONAILabelClient) -> str:
    return str(client.train_status()["status"])


def stats(studies: Path, name: str) -> dict[str, Any]:
    file = studies / ".medsam2_atlas" / name / "stats.json"
    return json.loads(file.read_text()) if file.exists() else {}


def dice(first: np.ndarray, second: np.ndarray, k: int) -> float:
    a, b = first == k, second == k
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_a_case_is_segmented_signed_off_and_learnt_from(client: MONAILabelClient, studies: Path, phantoms: Path) -> None:
    url = client.get_server_url().rstrip("/")
    about = client.info()
    assert set(about["models"]) == {"medsam2_atlas", "atlas", "unet_3d", "compare", "medsam2"}
    assert "Train it" in about["missing"]["unet_2d"]
    assert set(about["trainers"]) == {"medsam2_atlas", "unet_2d", "unet_3d"}
    assert set(about["strategies"]) == {"random", "first", "disagreement", "uncertainty", "novelty"}
    assert about["models"]["medsam2_atlas"]["config"]["prompts"] == ["atlas", "unet", "both"]
    assert about["models"]["unet_3d"]["weights_mark"] == "demo weights: synthetic phantoms only"

    # Pre-annotate with both models. Each prediction is stored under its model's tag, with its provenance.
    _, foundation = client.infer("medsam2_atlas", "patient-0", {"strategy": "B", "save_label": True, "label_tag": "final"})
    assert not (studies / "labels/final/patient-0.nii.gz").exists()  # no model can sign off, even if a client requests it
    file, baseline = client.infer("unet_3d", "patient-0", {})
    truth = sitk.GetArrayFromImage(sitk.ReadImage(str(truth_of(phantoms, "patient-0"))))
    found = sitk.GetArrayFromImage(sitk.ReadImage(file))
    assert dice(found, truth, 6) > 0.85
    assert dice(found, truth, 2) > 0.5
    assert baseline["report"]["energy"]["watt_hours"] > 0
    assert {p.name for p in (studies / "labels").iterdir()} >= {"medsam2_atlas", "unet_3d"}
    info = requests.get(f"{url}/datastore/label/info", {"label": "patient-0", "tag": "medsam2_atlas"}).json()
    assert info["provenance"]["strategy"] == "B"
    assert info["provenance"]["weights"] == foundation["report"]["weights"]["sha256"]
    assert info["provenance"]["atlas"] == about["models"]["medsam2_atlas"]["atlas"]
    assert set(client.info()["datastore"]["label_tags"]) >= {"medsam2_atlas", "unet_3d"}

    # A repeated request is not computed again.
    _, again = client.infer("unet_3d", "patient-0", {})
    assert again["report"].pop("from_cache") is True
    assert again["report"] == baseline["report"]

    # A prediction of some organs does not replace that of all organs.
    client.infer("unet_3d", "patient-0", {"organs": "liver"})
    kept = sitk.GetArrayFromImage(sitk.ReadImage(str(studies / "labels/unet_3d/patient-0.nii.gz")))
    assert (kept == found).all()

    # Compare on the fly.
    file, answer = client.infer("compare", "patient-0", {"first": "atlas"})
    differences = sitk.GetArrayFromImage(sitk.ReadImage(file))
    other = sitk.GetArrayFromImage(sitk.ReadImage(str(studies / "labels/atlas/patient-0.nii.gz")))
    assert ((differences > 0) == (found != other)).all()
    report = answer["report"]
    assert report["models"] == ["atlas", "unet_3d"]
    assert report["organs"]["liver"]["dice"] == pytest.approx(dice(found, other, 6), abs=1e-3)
    assert report["organs"]["liver"]["hd95_mm"] > 0
    assert report["cost"]["unet_3d"]["from_cache"] is True
    assert report["cost"]["atlas"]["seconds"] > 0
    assert "final" not in report

    # A person signs off four cases.
    for study in ("patient-0", "patient-1", "patient-2", "patient-3"):
        client.save_label(study, str(truth_of(phantoms, study)), tag="final")
    _, answer = client.infer("compare", "patient-0", {"first": "atlas"})
    assert answer["report"]["final"]["unet_3d"]["organs"]["liver"] == pytest.approx(dice(found, truth, 6), abs=1e-3)
    assert (studies / "labels/final/patient-0.nii.gz").read_bytes() == truth_of(phantoms, "patient-0").read_bytes()

    # The atlas grows, and the new one is used at once.
    client.train_start("medsam2_atlas", {"exclude": "patient-2, patient-3"})
    until(lambda: train_status(client) in ENDED, 240, "the atlas did not grow")
    assert train_status(client) == "DONE"
    grown = client.info()["train_stats"]["medsam2_atlas"]
    assert (grown["added"], grown["excluded"]) == (["patient-0", "patient-1"], ["patient-2", "patient-3"])
    _, answer = client.infer("atlas", "patient-4", {})
    registered = {"registration": "dense", "references_registered_by": "dense"}
    expected = {"folder": grown["folder"], "version": grown["version"], "references": 5} | registered
    assert answer["report"]["atlas"] == expected

    # The U-Net trains, is killed, and resumes.
    options = {"max_epochs": 40, "pretrained": False}
    client.train_start("unet_3d", options)
    until(lambda: stats(studies, "unet_3d").get("epoch", 0) >= 10, 240, "no epochs")
    client.train_stop()
    killed_at = stats(studies, "unet_3d")["epoch"]
    assert killed_at < 40
    client.train_start("unet_3d", options)
    until(lambda: train_status(client) in ENDED, 400, "the training did not end")
    assert train_status(client) == "DONE"
    curves = client.info()["train_stats"]["unet_3d"]
    assert curves["resumed_from"] >= 10
    assert curves["state"] == "finished"
    assert curves["energy"]["watt_hours"] > 0
    assert len(curves["loss"]) == curves["epoch"]
    assert np.mean(curves["loss"][-5:]) < 0.7 * curves["loss"][0]
    assert set(curves["validation"][-1]["organs"]) >= {"liver", "spleen", "aorta"}
    assert list((studies / ".medsam2_atlas/unet_3d/tensorboard").glob("events*"))

    # The server uses the new weights without a restart.
    _, answer = client.infer("unet_3d", "patient-4", {})
    assert answer["report"]["weights"]["file"].endswith("unet_3d/best.pt")
    assert answer["report"]["weights"]["mark"] == ""

    # The next case comes with the reason.
    for strategy in ("disagreement", "uncertainty", "novelty"):
        until(lambda s=strategy: client.next_sample(s, {"client_id": "test"})["weight"] > 0, 240, "nothing was measured")
        chosen = client.next_sample(strategy, {"client_id": "test"})
        assert chosen["id"] == "patient-4"
        assert chosen["why"].startswith(f"{strategy} (")

    # Any two tags can be scored.
    scores = requests.post(f"{url}/scoring/organs", params={"run_sync": True}, json={"y_pred": "unet_3d"}).json()
    assert scores["studies"]["patient-0"]["liver"]["dice"] == pytest.approx(dice(found, truth, 6), abs=1e-3)
    assert 0 < scores["mean"]["nsd"] <= 1
    assert client.info()["scoring"]["organs"]["results"]["unet_3d-against-final"]["studies"] >= 1
