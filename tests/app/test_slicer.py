"""A session with 3D Slicer: the requests of its MONAI Label module, sent by the same client class."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import requests
import SimpleITK as sitk

from app.running import server
from medsam2_atlas.atlas import ReferenceFiles
from waiting import until


def test_requests_of_3d_slicers_module_are_answered(short_files: ReferenceFiles, atlas_folder: Path, tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    studies.mkdir()
    shutil.copy(short_files.image, studies / "first.nii.gz")
    with server(studies, tmp_path / "server", {"atlas": str(atlas_folder), "learning": "false"}) as client:
        url = client.get_server_url().rstrip("/")
        # Connect: the module fills its menus from the answer.
        assert client.auth_enabled() is False
        about = client.info()
        assert {"name", "description", "version", "labels", "models", "trainers", "strategies", "scoring"} <= set(about)
        assert {"train_stats", "datastore"} <= set(about)
        for model in about["models"].values():
            assert {"type", "labels", "dimension", "description", "config"} <= set(model)
            assert all(isinstance(value, (list, bool, int, float, str)) for value in model["config"].values())
        for trainer in about["trainers"].values():
            assert all(isinstance(value, (list, bool, int, float, str)) for value in trainer["config"].values())

        # A volume that is open in Slicer becomes a study. Slicer downloads the next sample.
        assert client.upload_image(str(short_files.image), "second", {"patient": "x"})["image"] == "second"
        assert client.datastore()["objects"].keys() == {"first", "second"}
        sample = client.next_sample("first", {"client_id": "slicer"})
        assert {"id", "name"} <= set(sample)
        content = requests.get(f"{url}/datastore/image", {"image": sample["id"]}).content
        assert content == (studies / "first.nii.gz").read_bytes()

        # Auto segmentation, also in a session for a volume that is not a study.
        file, answer = client.infer("unet_3d", sample["id"], {"organs": ["liver"]})
        assert answer["label_names"] == {"liver": 6}
        session = client.create_session(str(short_files.image))["session_id"]
        assert client.get_session(session)["name"]
        other, _ = client.infer("unet_3d", "", {"organs": "liver"}, session_id=session)
        assert (read(other) == read(file)).all()
        client.remove_session(session)

        # Points on the chosen segment.
        z, y, x = (int(v) for v in np.argwhere(read(file) == 6).mean(0))
        asked = {"label": "liver", "foreground": [[x, y, z]], "background": []}
        _, answer = client.infer("medsam2", sample["id"], asked)
        assert answer["label_names"] == {"liver": 6}

        # Submit: Slicer numbers segments in the order of its list and sends this order.
        submitted = np.where(read(file) == 6, 1, 0).astype(np.uint8)
        image = sitk.GetImageFromArray(submitted)
        image.CopyInformation(sitk.ReadImage(str(short_files.image)))
        sitk.WriteImage(image, str(tmp_path / "label.nii.gz"))
        names = [{"name": "liver", "idx": 1}, {"name": "spleen", "idx": 2}]
        saved = client.save_label(sample["id"], str(tmp_path / "label.nii.gz"), "final", {"label_info": names})
        assert saved["version"] == 1
        assert (read(client.download_label(sample["id"], "final")) == 6 * submitted).all()
        counts = client.info()["datastore"]
        assert (counts["completed"], counts["total"], counts["label_tags"]["final"]) == (1, 2, 1)
        assert client.next_sample("first", {})["id"] == "second"

        # Train, get the progress, stop.
        assert client.train_start("unet_3d", {"max_epochs": 1000, "pretrained": False, "name": "x"})
        until(lambda: client.train_status(check_if_running=True), 120)
        assert "details" in client.train_status()
        client.train_stop()


def read(file: str | Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))
