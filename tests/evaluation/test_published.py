"""The published figures are complete, consistent with each other, and use the project's names."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
import yaml

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.resource import resource
from medsam2_atlas.evaluation import published
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.segmenters.registry import family_of

ORGANS = organ_table().indices


def test_figures_are_found_by_segmenter_and_organ_number() -> None:
    found = published()
    assert found.dice("D", 4) == (0.43, 0.27)
    assert found.dice("reference-3", 15) == (0.87, 0.04)
    assert found.dice("unet_2d", 1) == (0.91, None)
    assert found.mean("A") == (0.66, 0.19)
    assert found.threshold(14) == 0.7
    assert found.dice("E", 4) is found.dice("D", 99) is found.mean("E") is found.threshold(99) is None


def test_columns_are_segmenters_of_the_registry_and_rows_are_the_organs() -> None:
    found = published()
    assert found.segmenters == ("unet_2d", "unet_3d", "reference-1", "reference-3", "A", "B", "C", "D")
    roles = [family_of(name).role for name in found.segmenters]
    assert roles == ["trained"] * 2 + ["reference"] * 2 + ["prompted"] * 4
    assert list(found.dice_by_organ) == [organ.name for organ in organ_table().organs]
    assert all(found.dice(name, k) for name in found.segmenters for k in ORGANS)


@pytest.mark.parametrize("name", published().segmenters)
def test_the_mean_row_is_the_mean_and_the_deviation_of_the_organs(name: str) -> None:
    """The report rounds to two decimals, so its mean may differ by one of the last digit."""
    values = [figure[0] for k in ORGANS if (figure := published().dice(name, k))]
    mean = published().mean(name)
    assert mean is not None
    assert mean == (pytest.approx(statistics.mean(values), abs=0.01), pytest.approx(statistics.pstdev(values), abs=0.01))


def test_thresholds_of_the_organ_table_are_the_published_ones() -> None:
    assert published().thresholds == {organ.name: organ.published_threshold for organ in organ_table().organs}


def test_energy_times_and_machine_are_those_of_the_report() -> None:
    found = published()
    assert (found.cases.tests, found.cases.references, found.cases.unet_training) == (30, 15, 300)
    assert found.energy.training_kg == {"unet_2d": 0.351, "unet_3d": 0.336}
    assert found.energy.case_g == {"cascade": 0.36, "unet_2d": 0.02, "unet_3d": 0.02}
    breaks_even = found.energy.training_kg["unet_2d"] * 1000 / found.energy.case_g["cascade"]
    assert found.energy.break_even_cases == pytest.approx(breaks_even, rel=0.05)
    assert (found.time.registration_s, found.time.medsam2_s, found.time.max_unet_s) == (420, 30, 20)
    assert (found.centre_error_mm.registration, found.centre_error_mm.detector, found.detector_dice) == (15.5, 7.6, 0.82)
    assert found.machine.gpu == "NVIDIA Quadro RTX 4000"
    assert len(found.not_told) == 2


@pytest.mark.parametrize(
    ("part", "problem"),
    [("means.D", "different segmenters"), ("thresholds.liver", "different organs"), ("machine.gpu", "machine.gpu")],
)
def test_an_incomplete_file_is_refused(part: str, problem: str, tmp_path: Path) -> None:
    content = yaml.safe_load(resource("configs/published.yaml").read_text(encoding="utf-8"))
    group, key = part.split(".")
    del content[group][key]
    file = tmp_path / "published.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(InputError, match=problem):
        published(file)
