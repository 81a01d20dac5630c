"""Runs every kind of file in the table through the library, the command line, and the server's upload."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests
from typer.testing import CliRunner

from files.itk_files import written
from files.kind import HU, LABELS, Kind
from files.page import PAGE, content
from files.table import LABEL_MAPS, SECTIONS, VALUES
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.cli import app
from medsam2_atlas.imaging.hounsfield import read_ct
from medsam2_atlas.imaging.volume import read_labels

CTS = [kind for kinds in SECTIONS.values() if kinds is not LABEL_MAPS for kind in kinds]


def named(kind: Kind) -> str:
    return kind.what


def plain(text: str) -> str:
    """Returns a text without line breaks and frames of tables."""
    return " ".join(text.replace("│", " ").split())


@pytest.mark.parametrize("kind", CTS, ids=named)
def test_a_ct_is_read_correctly_or_refused_with_the_reason(kind: Kind, tmp_path: Path) -> None:
    path = kind.write(tmp_path)
    ran = CliRunner().invoke(app, ["check", str(path)], env={"COLUMNS": "1000"})
    if kind.refused:
        with pytest.raises(InputError) as refused:
            read_ct(path)
        assert kind.refused in str(refused.value)
        assert refused.value.remedy
        assert ran.exit_code == 1
        assert kind.refused in plain(ran.output)
        return
    volume = read_ct(path)
    kind.check(volume.array, volume.geometry, HU if kind.voxels is None else kind.voxels)
    assert bool(volume.remarks) == bool(kind.remark)
    assert kind.remark in " ".join(volume.remarks)
    assert ran.exit_code == 0, ran.output
    assert kind.remark in plain(ran.output)


@pytest.mark.parametrize("kind", LABEL_MAPS, ids=named)
def test_a_label_map_is_read_correctly_or_refused_with_the_reason(kind: Kind, tmp_path: Path) -> None:
    (tmp_path / "label").mkdir()
    image, path = written("ct.nii.gz")(tmp_path), kind.write(tmp_path / "label")
    ran = CliRunner().invoke(app, ["check", str(image), "--label", str(path)], env={"COLUMNS": "1000"})
    if kind.refused:
        with pytest.raises(InputError) as refused:
            read_labels(path, read_ct(image))
        assert kind.refused in str(refused.value)
        assert refused.value.remedy
        assert ran.exit_code == 1
        assert kind.refused in plain(ran.output)
        return
    labels = read_labels(path, read_ct(image))
    kind.check(labels.array, labels.geometry, LABELS)
    assert bool(labels.remarks) == bool(kind.remark)
    assert kind.remark in " ".join(labels.remarks)
    assert ran.exit_code == 0, ran.output


def test_the_server_accepts_and_refuses_the_same_cts(url: str, tmp_path: Path) -> None:
    wrong = []
    for number, kind in enumerate(CTS):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = kind.write(folder)
        if path.is_dir():
            continue
        with path.open("rb") as stream:
            query = {"image": f"kind-{number}"}
            answer = requests.put(f"{url}/datastore/image", params=query, files={"file": (path.name, stream)})
        accepted = answer.status_code == 200
        # An upload is not checked for HU: a model checks it when it runs, see `server_hu`.
        refused = kind.refused if kind not in VALUES or "empty" in kind.refused else ""
        if accepted == bool(refused) or (refused and refused not in answer.json()["detail"]):
            wrong.append(f"{kind.what}: {answer.status_code} {answer.text[:300]}")
    assert not wrong, "\n".join(wrong)


def test_the_server_accepts_and_refuses_the_same_label_maps(url: str, tmp_path: Path) -> None:
    image = written("ct.nii.gz")(tmp_path)
    with image.open("rb") as stream:
        requests.put(f"{url}/datastore/image", params={"image": "labelled"}, files={"file": (image.name, stream)})
    wrong = []
    for number, kind in enumerate(LABEL_MAPS):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = kind.write(folder)
        with path.open("rb") as stream:
            query = {"image": "labelled", "tag": f"kind-{number}"}
            answer = requests.put(f"{url}/datastore/label", params=query, files={"label": (path.name, stream)})
        accepted = answer.status_code == 200
        if accepted == bool(kind.refused) or (kind.refused and kind.refused not in answer.json()["detail"]):
            wrong.append(f"{kind.what}: {answer.status_code} {answer.text[:300]}")
            continue
        if accepted:
            back = tmp_path / f"back-{number}{''.join(path.suffixes)}"
            back.write_bytes(requests.get(f"{url}/datastore/label", params={"label": "labelled", "tag": query["tag"]}).content)
            labels = read_labels(back, read_ct(image))
            kind.check(labels.array, labels.geometry, LABELS)
    assert not wrong, "\n".join(wrong)


def test_the_inputs_page_contains_the_table() -> None:
    assert PAGE.file.read_text(encoding="utf-8") == PAGE.replaced(content()), "run `make inputs`"
