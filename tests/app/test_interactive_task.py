"""The interactive task in the real server, with the requests of 3D Slicer and OHIF."""

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
from mask_dice import mask_dice
from medsam2_atlas.atlas import ReferenceFiles

LIVER = 6


@pytest.fixture(scope="module")
def client(
    short_files: ReferenceFiles, atlas_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MONAILabelClient]:
    folder = tmp_path_factory.mktemp("interactive")
    (folder / "studies").mkdir()
    shutil.copy(short_files.image, folder / "studies" / "one.nii.gz")
    with server(folder / "studies", folder / "server", {"atlas": str(atlas_folder), "learning": "false"}) as client:
        yield client


@pytest.fixture(scope="module")
def truth(short_files: ReferenceFiles) -> np.ndarray:
    """Returns the liver as a bool mask in the file's axes `[z, y, x]`."""
    return np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(str(short_files.label))) == LIVER)


def middle_box(mask: np.ndarray) -> list[list[int]]:
    """Returns opposite corners (x, y, z) of the mask's box on its middle axial slice."""
    slices = np.flatnonzero(mask.any((1, 2)))
    z = int(slices[len(slices) // 2])
    rows, columns = np.nonzero(mask[z])
    return [[int(columns.min()), int(rows.min()), z], [int(columns.max()), int(rows.max()), z]]


def read(file: str | Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def test_viewers_list_medsam2_as_an_interactive_model(client: MONAILabelClient) -> None:
    about = client.info()["models"]["medsam2"]
    assert (about["type"], about["dimension"]) == ("deepgrow", 3)
    assert about["labels"]["liver"] == LIVER
    assert set(about["config"]) == {"weights", "mode", "reach"}


def test_a_box_segments_the_named_organ(client: MONAILabelClient, truth: np.ndarray) -> None:
    file, answer = client.infer("medsam2", "one", {"label": "liver", "boxes": [middle_box(truth)]})
    found = read(file)
    assert set(np.unique(found)) == {0, LIVER}
    assert mask_dice(found == LIVER, truth) > 0.85
    assert answer["label_names"] == {"liver": LIVER}
    assert answer["report"]["mark"]
    assert client.info()["datastore"]["label_tags"] == {}  # interactive results are not stored


def test_several_organs_can_be_marked_in_one_request(client: MONAILabelClient, truth: np.ndarray) -> None:
    (x0, y0, z), (x1, y1, _) = middle_box(truth)
    spleen = {"label": "spleen", "foreground": [[x0, y0, z]], "background": [], "boxes": []}
    objects = [{"label": "liver", "boxes": [[[x0, y0, z], [x1, y1, z]]]}, spleen]
    file, answer = client.infer("medsam2", "one", {"objects": objects, "foreground": [], "background": [], "reach": "6"})
    found = read(file)
    assert set(np.unique(found)) == {0, 1, LIVER}
    assert found[z, y0, x0] == 1
    assert mask_dice((found == LIVER)[z], truth[z]) > 0.8
    assert answer["label_names"] == {"liver": LIVER, "spleen": 1}
    assert [mark["organ"] for mark in answer["report"]["marks"]] == ["liver", "spleen"]


def test_clicks_of_slicer_refine_the_segmentation(client: MONAILabelClient, truth: np.ndarray) -> None:
    (x0, y0, z), (x1, y1, _) = middle_box(truth)
    box = [[x0, y0, z], [x1, y1, z]]
    above = [int(v) for v in np.argwhere(truth[z + 2])[0][::-1]]
    plain, _ = client.infer("medsam2", "one", {"label": "liver", "boxes": [box], "foreground": [], "background": []})
    before = read(plain)
    marks = {"label": "liver", "boxes": [box], "foreground": [[*above, z + 2]], "background": [[x0, y0, z + 2]]}
    refined, answer = client.infer("medsam2", "one", marks)
    assert len(answer["report"]["marks"]) == 2
    after = read(refined)
    assert after[z + 2, above[1], above[0]] == LIVER
    assert after[z + 2, y0, x0] == 0
    assert (after != before).any()


def test_ohif_gets_an_uncompressed_nrrd(client: MONAILabelClient, truth: np.ndarray) -> None:
    """OHIF sends no name of an organ, and requests an uncompressed NRRD on the file's own grid."""
    y, x = np.argwhere(truth[middle_box(truth)[0][2]]).mean(0).round().astype(int)
    params: dict[str, Any] = {"foreground": [[int(x), int(y), middle_box(truth)[0][2]]], "background": [], "reach": "10"}
    params |= {"result_extension": ".nrrd", "result_dtype": "uint8", "result_compress": False, "restore_label_idx": False}
    answer = requests.post(
        f"{client.get_server_url()}/infer/medsam2",
        params={"image": "one", "output": "image"},
        data={"params": json.dumps(params)},
    )
    assert answer.status_code == 200, answer.text
    assert answer.content.startswith(b"NRRD")
    assert len(answer.content.split(b"\n\n", 1)[1]) == truth.size


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "do not show the organ"),
        ({"foreground": [[0, 0, 100000]]}, "lies outside the image"),
        ({"foreground": "here"}, "is not a list"),
        ({"foreground": {"x": 1}}, "list of voxel indices"),
        ({"foreground": [[1, 1, 1]], "label": "spaceship"}, "is not an organ"),
        ({"objects": [{"label": "liver", "foreground": [[1, 1, 1]]}] * 2}, "contains liver twice"),
        ({"objects": [{"label": "liver", "foreground": [[1, 1, 1]]}], "boxes": [[1]]}, "cannot be combined"),
        ({"objects": [{"foreground": [[1, 1, 1]]}]}, "is not a list of organs"),
        ({"objects": [{"label": "liver", "reach": "1"}]}, "is not a list of organs"),
        ({"objects": ["liver"]}, "is not a list of organs"),
        ({"objects": [{"label": "liver"}]}, "do not show the organ"),
        ({"objects": [{"label": "liver"}] * 99}, "more entries than there are organs"),
        ({"foreground": [[1, 1, 1]], "reach": "far"}, "is not a valid reach"),
        ({"foreground": [[1, 1, 1]], "weights": "/etc/passwd"}, "is no weights"),
        ({"foreground": [[1, 1, 1]], "mode": "quick"}, "is no mode of this server; choose from: exact, fast"),
    ],
)
def test_invalid_marks_and_options_are_refused_with_the_reason(
    client: MONAILabelClient, params: dict[str, Any], message: str
) -> None:
    answer = requests.post(
        f"{client.get_server_url()}/infer/medsam2", params={"image": "one"}, data={"params": json.dumps(params)}
    )
    assert answer.status_code == 422, answer.text
    assert message in answer.json()["error"]["message"]


def test_an_image_of_a_session_can_be_segmented_interactively(
    client: MONAILabelClient, short_files: ReferenceFiles, truth: np.ndarray
) -> None:
    session = client.create_session(str(short_files.image))["session_id"]
    file, _ = client.infer("medsam2", "", {"label": "liver", "boxes": [middle_box(truth)]}, session_id=session)
    assert mask_dice(read(file) == LIVER, truth) > 0.85
    client.remove_session(session)
