"""Checkpoints are compared with known sizes and checksums; the result is a note and never refuses a file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.files import sha256
from medsam2_atlas.base.resource import resource
from medsam2_atlas.cli import app
from medsam2_atlas.cli import weights as command
from medsam2_atlas.medsam2.known_checkpoints import known_checkpoints

DEMO = resource("weights/medsam2_demo.pt")
OFFICIAL = "MedSAM2_latest.pt"


def run(*arguments: str | Path) -> str:
    ran = CliRunner().invoke(app, ["weights", *map(str, arguments)], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    return " ".join(ran.output.split())


def test_the_table_describes_the_shipped_demo_weights() -> None:
    known = known_checkpoints().root[DEMO.name]
    assert (known.bytes, known.sha256) == (DEMO.stat().st_size, sha256(DEMO)), "update configs/known_checkpoints.yaml"


def test_every_known_checkpoint_comes_with_the_program_or_can_be_fetched() -> None:
    fetched = yaml.safe_load(resource("configs/weights.yaml").read_text(encoding="utf-8"))["checkpoints"]
    assert set(known_checkpoints().root) <= {DEMO.name, *fetched}


def test_the_known_file_is_as_expected_under_any_name() -> None:
    table = known_checkpoints()
    known = table.root[OFFICIAL]
    for name in (OFFICIAL, "renamed.pt"):
        note = table.note(name, known.bytes, known.sha256)
        assert note.startswith(f"size and SHA-256 are as expected for {OFFICIAL} (according to a Git LFS pointer")


def test_another_file_under_a_known_name_differs() -> None:
    table, other = known_checkpoints(), hashlib.sha256(b"").hexdigest()
    known = table.root[OFFICIAL]
    truncated = table.note(OFFICIAL, 5, other)
    assert f"differs from the known {OFFICIAL}: its size is 5 bytes, not 156040129, its SHA-256 is not c92743b9" in truncated
    changed = table.note(OFFICIAL, known.bytes, other)
    assert "its SHA-256 is not c92743b9" in changed
    assert "its size" not in changed


def test_a_checkpoint_without_known_figures_is_not_compared() -> None:
    note = known_checkpoints().note("MedSAM2_2411.pt", 1, "0" * 64)
    assert note == "size and SHA-256 of MedSAM2_2411.pt are not known, so they were not compared"


@pytest.mark.parametrize(
    "content", ["- a", "a.pt: {bytes: 0, sha256: x, source: y}", f"a.pt: {{bytes: 1, sha256: {'A' * 64}, source: y}}"]
)
def test_a_damaged_table_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "known.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"is not a valid table of known checkpoints.*Restore"):
        known_checkpoints(tmp_path / "known.yaml")


def test_weights_check_prints_the_checksum_and_the_note(tmp_path: Path) -> None:
    assert f"SHA-256 {sha256(DEMO)} size and SHA-256 are as expected for {DEMO.name}" in run("check", DEMO)
    (tmp_path / OFFICIAL).write_bytes(DEMO.read_bytes())
    assert "as expected for medsam2_demo.pt" in run("check", tmp_path / OFFICIAL), "the file is recognised by its checksum"


def test_weights_fetch_compares_the_file_with_the_checkpoint_that_was_requested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = DEMO.read_bytes() + b"\0"  # a checkpoint that loads, and that is not a known one
    monkeypatch.setattr(command, "download", lambda url, target, progress: target.write_bytes(own))
    printed = run("fetch", OFFICIAL, "--out", tmp_path / "own.pt")
    assert f"differs from the known {OFFICIAL}: its size is {len(own)} bytes, not 156040129" in printed
    assert "fits the network" in printed, "a note, not a refusal"
