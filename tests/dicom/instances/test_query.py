"""Searches of DICOMweb."""

from __future__ import annotations

from typing import Any

import pytest

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.dicom.instances import parse_query

ITEM: dict[str, Any] = {
    "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Doe^Jane"}]},
    "00100020": {"vr": "LO", "Value": ["ct_001"]},
    "00080020": {"vr": "DA", "Value": ["20260315"]},
    "00080061": {"vr": "CS", "Value": ["CT", "SEG"]},
    "0020000D": {"vr": "UI", "Value": ["1.2.3"]},
    "00080050": {"vr": "SH"},
}


@pytest.mark.parametrize(
    ("name", "value", "fits"),
    [
        ("PatientName", "doe*", True),
        ("PatientName", "*JANE*", True),
        ("PatientName", "jane", False),
        ("PatientName", "?oe^Jane", True),
        ("00100010", "Doe^Jane", True),
        ("PatientID", "ct_00?", True),
        ("PatientID", "ct_0", False),
        ("PatientID", "ct_[0]01", False),
        ("StudyDate", "20260315", True),
        ("StudyDate", "20260101-20261231", True),
        ("StudyDate", "20260316-", False),
        ("StudyDate", "-20260315", True),
        ("StudyDate", "-20260314", False),
        ("ModalitiesInStudy", "SEG", True),
        ("ModalitiesInStudy", "MR", False),
        ("ModalitiesInStudy", "MR,CT", True),
        ("StudyInstanceUID", "1.2.3", True),
        ("StudyInstanceUID", "1.2.4,1.2.3", True),
        ("0020000D", "1.2", False),
        ("AccessionNumber", "*", True),
        ("AccessionNumber", "A1", False),
        ("BodyPartExamined", "ABDOMEN", True),
        ("fuzzymatching", "true", True),
        ("includefield", "all", True),
        ("anything", "else", True),
    ],
)
def test_an_item_fits_a_filter_or_does_not(name: str, value: str, fits: bool) -> None:
    assert parse_query([(name, value)]).matches(ITEM) is fits


def test_all_filters_must_fit() -> None:
    assert not parse_query([("PatientID", "ct*"), ("StudyInstanceUID", "9")]).matches(ITEM)


def test_a_page_begins_at_the_offset_and_requests_no_item_after_its_end() -> None:
    taken = []

    def items() -> Any:
        for number in range(10):
            taken.append(number)
            yield {"00200013": {"vr": "IS", "Value": [number]}}

    page = parse_query([("limit", "2"), ("offset", "3")]).page(items())
    assert [item["00200013"]["Value"] for item in page] == [[3], [4]]
    assert taken == [0, 1, 2, 3, 4]
    assert parse_query([("limit", "0")]).page(items()) == []


@pytest.mark.parametrize("value", ["-1", "x", "1e3", "9999999999", "١"])
def test_a_limit_that_is_no_number_is_refused(value: str) -> None:
    with pytest.raises(InputError, match="not a number"):
        parse_query([("limit", value)])


def test_a_long_pattern_is_refused_so_that_it_cannot_keep_the_server_busy() -> None:
    with pytest.raises(InputError, match="256 characters"):
        parse_query([("PatientName", "*a" * 200)])
    assert not parse_query([("PatientName", "*a" * 120)]).matches(ITEM)
