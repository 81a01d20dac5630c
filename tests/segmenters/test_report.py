"""Reports are typed, their JSON fits the published schema, and reports of other releases can be read."""

from __future__ import annotations

import json

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from medsam2_atlas.imaging.volume import Geometry, Volume
from medsam2_atlas.segmenters.report import Report, base_report
from segmenters import report_schema

GRID = Geometry((4, 3, 2), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
IMAGE = Volume(np.zeros(GRID.shape, np.float32), GRID, GRID, "a.nii.gz")


def test_the_published_schema_is_up_to_date() -> None:
    assert report_schema.FILE.read_text(encoding="utf-8") == report_schema.text()


def test_a_report_s_json_fits_the_schema() -> None:
    labels = np.full(GRID.shape, 6, np.uint8)
    report = base_report("D", IMAGE, labels, [6]).with_fields(seconds={"total": 1.0}, weights=None, energy={"watt_hours": None})
    content = json.loads(json.dumps(report.to_json()))
    Draft202012Validator(json.loads(report_schema.text())).validate(content)
    assert content["volumes_ml"] == {"liver": 0.02}
    assert content["weights"] is None
    assert "mark" not in content  # a field that was not set
    assert Report.from_json(content) == report


def test_a_report_of_another_release_can_be_read() -> None:
    report = Report.from_json({"strategy": "D", "seconds": {"total": 2}, "invented later": [1]})
    assert (report.strategy, report.seconds["total"], report.device) == ("D", 2, None)
    assert report.to_json()["invented later"] == [1]


@pytest.mark.parametrize("content", [{"seconds": "fast"}, {"volumes_ml": [1]}, {"organs": {"liver": 1}}])
def test_other_content_is_not_read_as_a_report(content: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not a report"):
        Report.from_json(content)


def test_an_unknown_field_cannot_be_set() -> None:
    with pytest.raises(ValueError, match="no field"):
        Report().with_fields(colour="red")
