"""`medsam2-atlas evaluate`: wrong usage is refused at once; an AMOS22-like data set goes through the whole experiment."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from blocks import FEW_STEPS, PATIENT, QUICK, labelled
from medsam2_atlas.atlas import BuildOptions, build_atlas, find_references
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.overlay import choose_settings
from medsam2_atlas.cli import app

CLI = CliRunner()
REFERENCES, TARGETS = ("amos_0036", "amos_0038"), ("amos_0309", "amos_0310")


def evaluate(*arguments: str | Path) -> str:
    """Runs the command and returns its output in one line."""
    ran = CLI.invoke(app, ["evaluate", *map(str, arguments)])
    return " ".join(f"{ran.output} {ran.exception or ''}".split())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    labelled(tmp_path / "data", "a", PATIENT)
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--segmenters", "Z"], "'Z': is not a segmenter."),
        (["--segmenters", ","], "--segmenters: names no segmenter."),
        (["--segmenters", "D,D"], "D: is named twice."),
        (["--segmenters", "medsam2"], "medsam2: needs a person's marks."),
        (["--segmenters", "unet_3d", "--references", "1"], "needs a segmenter that uses the atlas"),
        (["--references", "0"], "--references: is '0'."),
        (["--references", "one"], "--references: is 'one'."),
        (["--jitter", "turn=5"], "'turn=5': is not a jitter."),
        (["--jitter", "shift=5,far"], "'shift=far': is not a jitter."),
        (["--organs", "heart"], "heart: is not an organ of the table."),
        (["--unet-weights", "unet_4d=x.pt"], "'unet_4d=x.pt': does not name a U-Net and its weights."),
        (["--unet-weights", "unet_2d=x.pt"], "x.pt: is not a file."),
        (["--as-published", "--loop", "symmetric"], "contradicts --loop symmetric"),
        (["--atlas", "missing"], "missing: is not an atlas."),
    ],
)
def test_wrong_usage_is_refused_before_anything_is_written(data: Path, arguments: list[str], message: str) -> None:
    out = data.parent / "out"
    given = ["--images", data / "images", "--labels", data / "labels", "--out", out, *arguments]
    assert message in evaluate(*given)
    assert not (out / "report.html").exists()
    assert not (out / "records").exists()


@pytest.mark.parametrize(("device", "network"), [("auto", True), ("cpu", False)])
def test_on_a_cluster_the_threads_are_the_clusters_and_its_gpus_are_used_without_one_here(
    data: Path, monkeypatch: pytest.MonkeyPatch, device: str, network: bool
) -> None:
    seen: dict[str, Any] = {}

    @contextmanager
    def opened(*arguments: Any, **more: Any) -> Iterator[Any]:
        seen.update(more)
        yield SimpleNamespace(threads=7)

    def conducted(setting: Any, *_: Any) -> None:
        seen["threads"] = setting.threads
        raise InputError("x", "ends here.")

    monkeypatch.setattr("medsam2_atlas.cli.evaluate.check_cluster_options", lambda *_: None)
    monkeypatch.setattr("medsam2_atlas.cli.evaluate.on_cluster", opened)
    monkeypatch.setattr("medsam2_atlas.experiment.conduct.conduct", conducted)
    folders = ("--images", data / "images", "--labels", data / "labels", "--out", data / "out")
    text = evaluate(*folders, "--segmenters", "unet_3d", "--cluster", "c.yaml", "--device", device)
    assert "ends here" in text
    assert seen == {"network": network, "threads": 7}


def test_folders_that_cannot_be_used_are_refused(data: Path) -> None:
    images, labels, out = data / "images", data / "labels", data.parent / "out"
    assert "missing: is not a folder." in evaluate("--images", "missing", "--labels", labels, "--out", out)
    assert "is given as --images and as --labels" in evaluate("--images", images, "--labels", images, "--out", out)
    assert "is a folder of the data" in evaluate("--images", images, "--labels", labels, "--out", images)


def test_a_reference_of_the_atlas_is_not_evaluated(data: Path) -> None:
    build_atlas(find_references(data), BuildOptions(registration=QUICK)).save(data.parent / "atlas")
    given = ["--images", data / "images", "--labels", data / "labels", "--atlas", data.parent / "atlas"]
    message = evaluate(*given, "--segmenters", "atlas", "--out", data.parent / "out")
    assert "contains no case that can be used. a: is the reference a of the atlas" in message
    message = evaluate(*given, "--segmenters", "atlas", "--out", data.parent / "out", "--strict")
    assert "is the reference a of the atlas" in message


def test_a_download_of_amos22_goes_through_the_published_experiment(tmp_path: Path) -> None:
    """The strategies run with the demo weights, and with a jitter and smaller atlases."""
    download, prepared, out = tmp_path / "amos22", tmp_path / "prepared", tmp_path / "out"
    for n, name in enumerate((*REFERENCES, *TARGETS, "amos_0507")):
        labelled(tmp_path / "made", name, PATIENT, z_from=n)  # no two CTs are equal
    for kind, folder in (("images", "imagesTr"), ("labels", "labelsTr")):
        download.mkdir(exist_ok=True)
        (tmp_path / "made" / kind).rename(download / folder)
    split = ["--references", ",".join(REFERENCES), "--targets", ",".join(TARGETS)]
    ran = CLI.invoke(app, ["data", "prepare", "amos", str(download), str(prepared), *split], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    choose_settings("registration.yaml", {"keypoints": {"min_matches": 5}})  # patients made of blocks have few keypoints
    build_atlas(find_references(prepared / "references"), BuildOptions(registration=FEW_STEPS)).save(tmp_path / "atlas")
    images, labels = (prepared / "targets" / kind for kind in ("images", "labels"))
    given = ["--images", images, "--labels", labels, "--atlas", tmp_path / "atlas", "--out", out, "--as-published"]
    more = ["--segmenters", "atlas,B,reference-3", "--references", "1", "--jitter", "shift=12"]
    printed = evaluate(*given, *more)
    assert f"{out / 'report.html'} written" in printed
    assert "the references of the atlas were registered to each other by dense" in printed
    with (out / "cases.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["case"] for row in rows} == set(TARGETS)
    assert {(row["segmenter"], row["references"], row["jitter"]) for row in rows} == {
        ("atlas", "", ""),
        ("B", "", ""),
        ("reference-3", "", ""),
        ("atlas", "1", ""),
        ("B", "1", ""),
        ("reference-3", "", "shift=12"),
    }
    liver = {row["segmenter"]: float(row["dice"]) for row in rows if row["organ_name"] == "liver" and row["case"] == TARGETS[0]}
    assert liver["atlas"] > 0.5, "the same patient, registered"
    assert all(float(row["centre_mm"]) == 0 for row in rows if row["segmenter"] == "reference-3" and not row["jitter"])
    made = json.loads((out / "made_with.json").read_text(encoding="utf-8"))
    assert made["as_published"]
    record = json.loads((out / "records" / "B" / f"{TARGETS[0]}.json").read_text(encoding="utf-8"))
    assert (record["report"]["loop"], record["report"]["thresholds"]) == ("published", "published")
    assert record["key"]["segmenter"]["fusion"]["method"] == "mean"
    page = (out / "report.html").read_text(encoding="utf-8")
    for words in ("published", "Jittered prompts", "Number of references", "as published: unet_2d costs less than"):
        assert words in page
