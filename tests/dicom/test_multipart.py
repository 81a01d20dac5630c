"""Multipart messages are written to files while they arrive, within limits."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.dicom.multipart import MultipartFiles, MultipartLimits, boundary_of

KIND = 'multipart/related; type="application/dicom"; boundary="b-1"'
LIMITS = MultipartLimits(parts=8, part_bytes=1000, total_bytes=20_000)


def message(parts: list[bytes], before: bytes = b"") -> bytes:
    return (
        before
        + b"".join(b"--b-1\r\nContent-Type: application/dicom\r\n\r\n" + part + b"\r\n" for part in parts)
        + b"--b-1--\r\n"
    )


def written(folder: Path, body: bytes, size: int = 7, limits: MultipartLimits = LIMITS) -> list[bytes]:
    folder.mkdir(exist_ok=True)
    with MultipartFiles(folder, KIND, limits) as files:
        for start in range(0, len(body), size):
            files.write(body[start : start + size])
        return [file.read_bytes() for file in files.finish()]


@given(
    st.lists(
        st.one_of(st.binary(max_size=60), st.sampled_from([b"\r\n", b"\r\n--b-", b"--b-1", b"\r\n--b-1x"])),
        min_size=1,
        max_size=5,
    ),
    st.integers(1, 50),
    st.sampled_from([b"", b"\r\n", b"preamble\r\n"]),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_parts_become_files_for_any_size_of_chunks(tmp_path: Path, parts: list[bytes], size: int, before: bytes) -> None:
    folder = tmp_path / "files"
    for file in folder.glob("*"):
        file.unlink()
    assert written(folder, message(parts, before), size) == parts


@pytest.mark.parametrize(
    "limits",
    [MultipartLimits(2, 1000, 20_000), MultipartLimits(8, 99, 20_000), MultipartLimits(8, 1000, 300)],
)
def test_a_message_over_a_limit_is_refused_before_it_is_on_disk(tmp_path: Path, limits: MultipartLimits) -> None:
    with pytest.raises(InputError):
        written(tmp_path, message([bytes(100)] * 3), limits=limits)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 300


@pytest.mark.parametrize("missing", [1, 3, 8, 9, 50, 120])
def test_a_message_that_is_cut_off_is_refused(tmp_path: Path, missing: int) -> None:
    body = message([bytes(50), bytes(50)]).rstrip(b"\r\n")
    with pytest.raises(InputError):
        written(tmp_path, body[:-missing])


@pytest.mark.parametrize("body", [b"", b"x" * 10_000, b"--b-1", b"--b-1\r\n\x00: y\r\n\r\n", b"--b-1\r\n" + b"h" * 9000])
def test_a_body_that_is_not_a_message_is_refused(tmp_path: Path, body: bytes) -> None:
    with pytest.raises(InputError):
        written(tmp_path, body)


@pytest.mark.parametrize(
    "kind", ["", "application/dicom", "multipart/related", "multipart/related; boundary=", "a\x00b; boundary=é"]
)
def test_a_message_without_a_boundary_is_refused(kind: str) -> None:
    with pytest.raises(InputError):
        boundary_of(kind)


def test_boundaries_may_be_quoted_or_not() -> None:
    assert boundary_of(KIND) == boundary_of("Multipart/Related;boundary=b-1") == b"b-1"


def test_an_endless_boundary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        MultipartFiles(tmp_path, "multipart/related; boundary=" + "b" * 5000, LIMITS)
