"""UIDs from other systems are checked."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medsam2_atlas.dicom.uids import cleaned_uid, uid_folder_name, valid_uid


@pytest.mark.parametrize("text", ["1", "1.2.840.10008", "1.02.3", "2.25.0", "9" * 64, "1.2." + "3" * 60])
def test_uids_are_valid_with_leading_zeros_too(text: str) -> None:
    assert valid_uid(text)


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", "1.", ".1", "1..2", "1/2", "../1", "1.2\n", "1.2 ", "a", "1.2.x", "9" * 65, "١.٢", "1.2\0", None, 1.2],
)
def test_other_texts_are_not_valid_uids(text: object) -> None:
    assert not valid_uid(text)


def test_padding_is_removed_from_a_uid() -> None:
    assert cleaned_uid("1.2.3\0") == cleaned_uid("1.2.3 ") == "1.2.3"
    assert cleaned_uid("1.2\0.3") == cleaned_uid("..") == cleaned_uid(None) == ""


@given(st.text())
def test_a_folder_s_name_contains_no_text_of_the_uid(text: str) -> None:
    assert re.fullmatch("[0-9a-f]{32}", uid_folder_name(text.encode("utf-8", "replace").decode()))
