"""`medsam2-atlas practice`: a client that signs off cases with their ground truth."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from medsam2_atlas.atlas import ReferenceFiles

CLOSED = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def labels(short_files: ReferenceFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the ground truth of the server's two studies."""
    folder = tmp_path_factory.mktemp("labels")
    for name in ("first", "second"):
        shutil.copy(short_files.label, folder / f"{name}.nii.gz")
    return folder


def practice(labels: Path, url: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "medsam2_atlas", "practice", str(labels), "--server", url, *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_case_without_ground_truth_stops_the_practice(url: str, tmp_path: Path) -> None:
    ended = practice(tmp_path, url, "--strategy", "first", "--model", "atlas")
    assert ended.returncode == 1
    assert "has no label map of first" in ended.stderr


def test_a_refused_request_is_reported_in_the_servers_words(url: str, labels: Path) -> None:
    ended = practice(labels, url, "--strategy", "none", "--model", "atlas")
    assert (ended.returncode, len(ended.stderr.splitlines())) == (1, 1)
    assert "refused a request" in ended.stderr
    assert "none" in ended.stderr


def test_cases_are_signed_off_with_their_ground_truth_until_none_is_left(url: str, labels: Path, studies: Path) -> None:
    ended = practice(labels, url, "--cases", "3", "--strategy", "first", "--model", "atlas")
    assert ended.returncode == 0, ended.stderr
    assert "1. first, the first by name of 2 cases" in ended.stdout
    assert "no more cases" in ended.stdout
    assert "2 cases signed off; mean Dice" in ended.stdout
    for name in ("first.nii.gz", "second.nii.gz"):
        assert (studies / "labels" / "final" / name).read_bytes() == (labels / name).read_bytes()


@pytest.mark.parametrize(
    ("folder", "url", "problem"),
    [("none", CLOSED, "is not a folder"), (".", "127.0.0.1", "is not a URL"), (".", CLOSED, "does not answer")],
)
def test_a_practice_that_cannot_begin_names_the_reason(folder: str, url: str, problem: str, tmp_path: Path) -> None:
    ended = practice(tmp_path / folder, url)
    assert (ended.returncode, len(ended.stderr.splitlines())) == (1, 1)
    assert problem in ended.stderr
