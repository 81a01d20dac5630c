"""Media types and multipart messages of DICOMweb."""

from __future__ import annotations

import pytest
from requests_toolbelt import MultipartDecoder

from medsam2_atlas.dicom.instances import Part, accepts, multipart
from medsam2_atlas.dicom.instances.media import DICOM, FRAMES, JSON


@pytest.mark.parametrize(
    "header",
    [
        "",
        "*/*",
        'multipart/related; type="application/octet-stream"',
        "multipart/related; type=application/octet-stream; transfer-syntax=*",
        'multipart/related; type="application/octet-stream"; transfer-syntax=1.2.840.10008.1.2.1',
        'multipart/related; type="image/jls"; transfer-syntax=1.2.840.10008.1.2.4.80, multipart/related; type="*/*"',
        "image/jpeg;q=0.5, */*;q=0.1",
        "multipart/related",
    ],
)
def test_frames_are_accepted(header: str) -> None:
    assert accepts(header, FRAMES, multipart=True)


@pytest.mark.parametrize(
    "header",
    [
        "image/jpeg",
        "application/octet-stream",
        'multipart/related; type="image/jpeg"',
        'multipart/related; type="application/octet-stream"; transfer-syntax=1.2.840.10008.1.2.4.90',
        "*/*;q=0",
        "nonsense",
        "a" * 100_000,
        "multipart/related;" * 5000,
    ],
)
def test_other_forms_of_frames_are_not_accepted(header: str) -> None:
    assert not accepts(header, FRAMES, multipart=True)


def test_json_has_two_names() -> None:
    assert all(accepts(name, JSON) for name in ("application/dicom+json", "application/json", "application/*"))
    assert not accepts("application/dicom+xml", JSON)


def test_a_message_contains_its_parts_unchanged() -> None:
    contents = [b"\r\n--x\r\n\0\xff", b"", b"abc" * 1000]
    kind, pieces = multipart(DICOM, (Part(DICOM, content) for content in contents))
    found = MultipartDecoder(b"".join(pieces), kind).parts
    assert [part.content for part in found] == contents
    assert all(part.headers[b"Content-Type"] == b"application/dicom" for part in found)
