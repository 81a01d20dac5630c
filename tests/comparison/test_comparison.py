"""Comparison of two models over a studies folder: figures, plots and the page."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from fake_segmenters import FakeSegmenter, plain_models
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.comparison import compare_studies, write_comparison
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.segmenters.base import Options, Segmentation, base_report
from medsam2_atlas.storage import StudyFolder


def blocks(volume: Volume, shift: int) -> np.ndarray:
    labels = np.zeros(volume.array.shape, np.uint8)
    labels[4:12, 4:12, 4 + shift : 14 + shift] = 6
    labels[2:5, 14:18, 4:8] = 2
    return labels


def contestant(name: str, shift: int, ran: list[str]) -> FakeSegmenter:
    def run(image: Volume, _: Options) -> Segmentation:
        ran.append(name)
        labels = blocks(image, shift + (2 if "far" in image.source else 0) * (name == "unet_3d"))
        report = base_report(name, image, labels, [2, 6]).with_fields(seconds={"total": 1.0 + shift}, mark="demo weights")
        return Segmentation(image.with_array(labels), report)

    return FakeSegmenter(name, {"organs": [2, 6], "shift": shift}, run)


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    generator = np.random.default_rng(0)
    (tmp_path / "labels" / "final").mkdir(parents=True)
    for name in ("far", "near"):
        image = sitk.GetImageFromArray(generator.normal(40, 30, (16, 20, 24)).astype(np.float32))
        image.SetSpacing((4.0, 4.0, 5.0))
        sitk.WriteImage(image, str(tmp_path / f"{name}.nii.gz"))
    final = np.zeros((16, 20, 24), np.uint8)
    final[4:12, 4:12, 4:14] = 6
    picture = sitk.GetImageFromArray(final)
    picture.SetSpacing((4.0, 4.0, 5.0))
    sitk.WriteImage(picture, str(tmp_path / "labels" / "final" / "near.nii.gz"))
    (tmp_path / "broken.nii.gz").write_bytes(b"")
    return StudyFolder(tmp_path)


def test_a_comparison_writes_figures_plots_and_a_page(folder: StudyFolder, tmp_path: Path) -> None:
    ran: list[str] = []
    pair = (contestant("D", 0, ran), contestant("unet_3d", 1, ran))
    result = compare_studies(folder, pair, plain_models(folder.path))
    assert sorted(ran) == ["D"] * 2 + ["unet_3d"] * 2
    assert "0 bytes" in result.problems["broken"]
    near = {case.study: case for case in result.cases}["near"]
    assert near.scores[6].dice == pytest.approx(0.9)
    assert near.scores[2].dice == 1
    assert result.against_final("medsam2_atlas", 6) == 1
    assert result.against_final("unet_3d", 6) == pytest.approx(0.9)
    assert result.against_final("unet_3d", 2) is None  # not annotated in the final label
    assert result.agreement() == pytest.approx((0.95 + 0.85) / 2)
    point = {"labelled": 1, "models": ["medsam2_atlas", "unet_3d"], "agreement": result.agreement(), "studies": 2}
    assert result.history == [point]

    again = compare_studies(folder, pair, plain_models(folder.path))
    assert len(ran) == 4  # all results come from the store
    assert again.agreement() == result.agreement()
    assert len(again.history) == 1

    out = tmp_path / "out"
    write_comparison(result, folder, out, worst=1)
    page = (out / "index.html").read_text()
    assert "demo weights" in page
    assert "<h3>far: mean Dice 0.85" in page
    assert "<h3>near" not in page
    assert "broken.nii.gz" in page
    links = re.findall(r"""(?:src|href)=['"]([^'"]{0,30})""", page)
    assert links
    assert all(link.startswith("data:image/") for link in links)
    with (out / "comparison.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert {row["study"] for row in rows} == {"far", "near"}
    liver = next(row for row in rows if (row["study"], row["organ"]) == ("near", "liver"))
    assert float(liver["dice_unet_3d_to_final"]) == pytest.approx(0.9)
    assert json.loads((out / "comparison.json").read_text())["seconds_median"] == {"medsam2_atlas": 1.0, "unet_3d": 2.0}
    for name in ("dice.png", "agreement.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")


def test_the_page_shows_where_score_maps_and_network_differ(folder: StudyFolder, tmp_path: Path) -> None:
    def run(image: Volume, _: Options) -> Segmentation:
        labels = blocks(image, 0)
        share = {"liver": 0.75 if "far" in image.source else 0.25, "right_kidney": 0.1}
        report = base_report("F", image, labels, [2, 6]).with_fields(seconds={"total": 1.0}, disagreement=share)
        return Segmentation(image.with_array(labels), report)

    pair = (FakeSegmenter("F", {"organs": [2, 6]}, run), contestant("unet_3d", 1, []))
    result = compare_studies(folder, pair, plain_models(folder.path))
    assert result.disagreement("medsam2_atlas", 6) == pytest.approx(0.5)
    assert result.disagreement("medsam2_atlas") == pytest.approx(0.3)
    assert result.disagreement("unet_3d") is result.disagreement("medsam2_atlas", 14) is None
    write_comparison(result, folder, tmp_path / "out", worst=0)
    page = (tmp_path / "out" / "index.html").read_text()
    assert "medsam2_atlas, score map and network differ" in page
    assert "unet_3d, score map and network differ" not in page
    (row,) = re.findall(r"<tr><th scope=row>Liver.*", page)
    assert row.endswith("<td>0.500")
    studies = json.loads((tmp_path / "out" / "comparison.json").read_text())["studies"]
    assert studies["far"]["disagreement"] == {"medsam2_atlas": {"right_kidney": 0.1, "liver": 0.75}}


def test_agreement_is_recorded_by_number_of_labelled_cases(folder: StudyFolder) -> None:
    ran, models = list[str](), plain_models(folder.path)
    compare_studies(folder, (contestant("D", 0, ran), contestant("unet_3d", 2, ran)), models)
    final = folder.path / "labels" / "final"
    (final / "far.nii.gz").write_bytes((final / "near.nii.gz").read_bytes())
    better = compare_studies(folder, (contestant("D", 0, ran), contestant("unet_3d", 0, ran)), models)
    assert [entry["labelled"] for entry in better.history] == [1, 2]
    assert better.history[0]["agreement"] < better.history[1]["agreement"]


def test_a_study_that_raises_anything_does_not_stop_the_comparison(folder: StudyFolder, tmp_path: Path) -> None:
    ran: list[str] = []
    first, second = contestant("D", 0, ran), contestant("unet_3d", 1, ran)

    def run(image: Volume, options: Options) -> Segmentation:
        if "far" in image.source:
            raise ZeroDivisionError("from a library")
        return second.run(image, options)

    failing = FakeSegmenter("unet_3d", {"organs": [2, 6], "shift": 1}, run)
    file = folder.work.folder("comparisons") / "history.json"
    file.write_text("[not json")
    result = compare_studies(folder, (first, failing), plain_models(folder.path))
    assert [case.study for case in result.cases] == ["near"]
    assert result.problems["far"] == "ZeroDivisionError: from a library"
    (folder.path / "broken.nii.gz").unlink()
    with pytest.raises(InputError, match=r"far\.nii\.gz: cannot be compared: ZeroDivisionError"):
        compare_studies(folder, (first, failing), plain_models(folder.path), strict=True)
    assert len(result.history) == 1
    (folder.label_folder("unet_3d") / "near.nii.gz").write_bytes(b"")
    write_comparison(result, folder, tmp_path / "page")
    page = (tmp_path / "page" / "index.html").read_text()
    assert "ZeroDivisionError" in page
    assert "near: cannot be drawn" in page
