"""The commands of docs/tutorial.md lead to what the page shows; `test_documentation` checks their options."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from docs.pages import command_lines, text_of
from docs.tutorial import PAGE, run_page

TEXT = text_of(PAGE)
SHELL = {"cp", "curl", "kill", "ls", "mkdir", "cat"}
"""Programs that the page uses besides its own."""


def test_the_page_uses_no_other_programs() -> None:
    assert {words[0] for words in command_lines(PAGE)} <= SHELL | {"medsam2-atlas"}


def test_the_page_has_a_command_for_each_step() -> None:
    run = [" ".join(words[1:3]) for words in command_lines(PAGE) if words[0] == "medsam2-atlas"]
    steps = [
        "phantoms",
        "check",
        "atlas build",
        "thresholds",
        "segment",
        "serve",
        "practice",
        "atlas grow",
        "train unet",
        "compare",
    ]
    places = [next(n for n, words in enumerate(run) if words.startswith(step)) for step in steps]
    assert places == sorted(places)


def test_the_pictures_of_the_page_exist_and_are_small() -> None:
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", TEXT)
    assert pictures
    for picture in pictures:
        assert (PAGE.parent / picture).stat().st_size < 200_000, picture


@pytest.mark.slow
def test_the_page_leads_from_a_folder_of_cts_to_a_comparison(tmp_path: Path) -> None:
    check_results(tmp_path, run_page(tmp_path).read_text())


def check_results(folder: Path, printed: str) -> None:
    """Checks what the page's commands have made in a folder and printed against what the page shows."""
    for name in re.findall(r"<!-- made: (.*?) -->", TEXT):
        assert (folder / name).exists(), name
    for words in re.findall(r"<!-- printed: (.*?) -->", TEXT):
        assert words in printed, words
    finals = [*(folder / "studies" / "labels" / "final").iterdir()]
    assert len(finals) == 10
    for file in finals:
        assert file.read_bytes() == (folder / "practice" / "labels" / file.name).read_bytes()
    sizes = {sitk.ReadImage(str(folder / name)).GetSize() for name in ("label.nii.gz", "studies/phantom-2-000.nii.gz")}
    assert len(sizes) == 1
    compared = json.loads((folder / "comparison" / "comparison.json").read_text())
    assert compared["models"] == ["medsam2_atlas", "unet_3d"]
    assert len(compared["studies"]) == 3
    assert compared["problems"] == {}
    organs = list(csv.DictReader((folder / "comparison" / "comparison.csv").open()))
    dice = {model: np.mean([float(row[f"dice_{model}_to_final"]) for row in organs]) for model in compared["models"]}
    assert dice["medsam2_atlas"] > 0.75
    assert 0.3 < dice["unet_3d"] < dice["medsam2_atlas"]  # as the page says
