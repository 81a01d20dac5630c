"""The server with CTs whose values are not HU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from blocks import PATIENT, QUICK, labelled
from main import MedSAM2AtlasApp
from medsam2_atlas.atlas import BuildOptions, build_atlas, find_references
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.resource import resource


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Returns a folder with an atlas of one reference, and a signed-off study of the same patient with values 1000 too high."""
    labelled(tmp_path / "references", "a", PATIENT)
    build_atlas(find_references(tmp_path / "references"), BuildOptions(registration=QUICK)).save(tmp_path / "atlas")
    final = tmp_path / "studies" / "labels" / "final"
    final.mkdir(parents=True)
    image = sitk.ReadImage(str(tmp_path / "references" / "images" / "a.nii.gz"))
    sitk.WriteImage(image + 1000, str(tmp_path / "studies" / "one.nii.gz"))
    (final / "one.nii.gz").write_bytes((tmp_path / "references" / "labels" / "a.nii.gz").read_bytes())
    return tmp_path


def asked(folder: Path, hu: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the report of the model `atlas` for the study, and the report of the growing atlas."""
    conf = {"device": "cpu", "learning": "false", "atlas": str(folder / "atlas")} | ({"server_hu": hu} if hu else {})
    app = MedSAM2AtlasApp(str(resource("apps/medsam2_atlas")), str(folder / "studies"), conf)
    try:
        report = app.infer({"model": "atlas", "image": "one"})["params"]["report"]
        return report, app._trainers["medsam2_atlas"]({}, app.datastore())
    finally:
        app.stop()


def test_a_study_with_an_hu_offset_is_refused_or_corrected_by_setting(folder: Path) -> None:
    with pytest.raises(InputError, match=r"one\.nii\.gz: its values are 1000 too high"):
        asked(folder, None)
    report, growth = asked(folder, "auto")
    assert (report["hu"]["rule"], report["hu"]["offset"]) == ("auto", -1000)
    assert np.sum([*report["volumes_ml"].values()]) > 100
    assert growth["added"] == ["one"]
    assert growth["hu"] == {"rule": "auto", "offsets": {"one": -1000.0}}
    with pytest.raises(InputError, match="1000 too high"):  # the prediction stored with `auto` is not used
        asked(folder, None)


def test_an_invalid_hu_setting_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="server settings"):
        asked(folder, "guess")
