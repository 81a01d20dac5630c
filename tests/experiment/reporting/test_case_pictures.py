"""Pictures of the best, the median and the worst case."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from made_results import organ, record
from medsam2_atlas.experiment import Results, Variant
from medsam2_atlas.experiment.reporting import pictures
from medsam2_atlas.experiment.reporting.pictures import CaseFiles, draw_cases, ranked_cases
from medsam2_atlas.imaging.volume import Volume

B, D = Variant(segmenter="B"), Variant(segmenter="D")


def of(**dice: list[float]) -> Results:
    """Returns results with one organ: the Dice of each case, by segmenter."""
    records = [
        record(f"case_{n}", Variant(segmenter=name), [organ(6, value)])
        for name, values in dice.items()
        for n, value in enumerate(values)
    ]
    return Results(tuple(records), (6,))


@pytest.mark.parametrize(
    ("dice", "expected"),
    [
        ([0.5], {"case_0": ("best", "median", "worst")}),
        ([0.5, 0.9], {"case_1": ("best", "median"), "case_0": ("worst",)}),
        ([0.7, 0.5, 0.9, 0.6], {"case_2": ("best",), "case_0": ("median",), "case_1": ("worst",)}),
        ([0.5, 0.5, 0.5], {"case_0": ("best",), "case_1": ("median",), "case_2": ("worst",)}),
        ([], {}),
    ],
)
def test_best_median_and_worst_case_by_mean_dice(dice: list[float], expected: dict[str, tuple[str, ...]]) -> None:
    assert ranked_cases(of(D=dice), D) == expected


@pytest.fixture
def files(tmp_path: Path) -> CaseFiles:
    """Returns CTs and label maps of the cases 0 to 2; the prediction of B on case 1 was not kept."""
    generator = np.random.default_rng(0)
    for n in range(3):
        image = sitk.GetImageFromArray(generator.normal(40, 30, (8, 24, 20)).astype(np.int16))
        labels = np.zeros((8, 24, 20), np.uint8)
        labels[2:6, 4:18, 4 + n : 14] = 6
        for name, picture in (("ct", image), ("truth", sitk.GetImageFromArray(labels))):
            picture.SetSpacing((4.0, 4.0, 5.0))
            sitk.WriteImage(picture, str(tmp_path / f"case_{n}_{name}.nii.gz"))
    return CaseFiles(
        lambda case: tmp_path / f"{case}_ct.nii.gz",
        lambda case: tmp_path / f"{case}_truth.nii.gz",
        lambda case, variant: None if (case, variant) == ("case_1", B) else tmp_path / f"{case}_truth.nii.gz",
    )


def test_a_case_is_read_once_for_all_its_variants(files: CaseFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def reading(path: Path, rule: object) -> Volume:
        read.append(Path(path).name)
        return original(path, rule)

    original = pictures.read_ct
    monkeypatch.setattr(pictures, "read_ct", reading)
    shown = draw_cases(of(B=[0.9, 0.7, 0.5], D=[0.6, 0.7, 0.8]), files)
    assert read == [f"case_{n}_ct.nii.gz" for n in range(3)]
    assert [(one.case, [(p.variant, p.ranks) for p in one.predictions]) for one in shown] == [
        ("case_0", [("B", ("best",)), ("D", ("worst",))]),
        ("case_1", [("B", ("median",)), ("D", ("median",))]),
        ("case_2", [("B", ("worst",)), ("D", ("best",))]),
    ]
    first = shown[0].predictions[0]
    assert shown[0].truth is not None
    assert first.content is not None
    assert Image.open(io.BytesIO(first.content)).format == "JPEG"
    assert Image.open(io.BytesIO(first.content)).width <= 1280
    assert first.mean_dice == 0.9
    lost = shown[1].predictions[0]
    assert (lost.content, lost.remark) == (None, "The prediction was not kept.")
    assert shown[1].predictions[1].content is not None


def test_files_that_cannot_be_read_become_remarks(files: CaseFiles, tmp_path: Path) -> None:
    (tmp_path / "case_0_ct.nii.gz").write_bytes(b"")
    (tmp_path / "broken.nii.gz").write_bytes(b"no label map")
    broken = CaseFiles(files.image_of, files.truth_of, lambda case, _: tmp_path / "broken.nii.gz")
    no_image, no_prediction = draw_cases(of(D=[0.5, 0.9]), broken)
    assert no_image.truth is None
    assert "case_0_ct.nii.gz" in no_image.remark
    assert no_image.predictions[0].content is None
    assert no_prediction.truth is not None
    assert "broken.nii.gz" in no_prediction.predictions[0].remark


def test_pictures_carry_the_mark_of_the_weights(files: CaseFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    marks: list[str] = []
    original = pictures.draw_preview
    monkeypatch.setattr(pictures, "draw_preview", lambda *a, **k: marks.append(k.get("mark", "")) or original(*a, **k))
    (one,) = of(D=[0.5]).records
    marked = one.model_copy(update={"report": {"mark": "demo weights"}})
    draw_cases(Results((marked,), (6,)), files)
    assert marks == ["", "demo weights"]  # ground truth, prediction
