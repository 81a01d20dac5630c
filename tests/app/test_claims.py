"""Claims register work processes, and find those whose server has ended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medsam2_atlas.base.errors import ConflictError
from medsam2_atlas.base.processes import ProcessMark
from medsam2_atlas.storage import WorkFolder
from tasks.claims import SERVER_VARIABLE, Claim, check_training, claimed, end_orphans

OWN = ProcessMark.own()
DEAD = ProcessMark(OWN.namespace, 4_000_000, 1)


@pytest.fixture
def work(tmp_path: Path) -> WorkFolder:
    return WorkFolder(tmp_path)


def test_a_server_can_score_for_several_clients_at_once(work: WorkFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SERVER_VARIABLE, str(OWN))
    with claimed(work, "scoring", "organs"), claimed(work, "scoring", "organs"):
        assert not (work.path / "claims").exists()


def test_two_trainings_never_run_at_once(work: WorkFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SERVER_VARIABLE, raising=False)
    with claimed(work, "train", "unet_3d"):
        with pytest.raises(ConflictError, match="unet_3d"), claimed(work, "train", "unet_2d"):
            pass
        with pytest.raises(ConflictError, match="unet_3d"):
            check_training(work)
        assert end_orphans(work) == []  # a process that was started by hand has no server that could have ended
    check_training(work)
    with claimed(work, "train", "unet_2d"):
        pass


def test_work_does_not_start_after_its_server_has_ended(work: WorkFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SERVER_VARIABLE, str(DEAD))
    with pytest.raises(ConflictError, match="its server has ended"), claimed(work, "train", "unet_3d"):
        pass


def test_a_process_that_does_not_match_its_claim_is_not_ended(work: WorkFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SERVER_VARIABLE, raising=False)
    with claimed(work, "train", "unet_3d"):
        file = work.path / "claims/train.json"
        content = json.loads(file.read_text())
        file.write_text(json.dumps(content | {"server": str(DEAD)}))  # names this process, which is not a training
        assert end_orphans(work) == []
        file.write_text(json.dumps(content | {"server": str(DEAD), "process": str(ProcessMark(OWN.namespace, 1, 1))}))
        assert end_orphans(work) == []


def test_work_of_another_container_is_not_orphaned() -> None:
    elsewhere = ProcessMark(OWN.namespace + 1, 4_000_000, 1)
    assert not Claim(elsewhere, elsewhere, "train", "unet_3d").orphaned
    assert not Claim(elsewhere, DEAD, "train", "unet_3d").orphaned
    assert Claim(OWN, DEAD, "train", "unet_3d").orphaned


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 10**5, '{"process": 3}', "\x00"])
def test_a_damaged_claim_does_not_block_other_work(work: WorkFolder, content: str) -> None:
    file = work.folder("claims") / "scoring-x.json"
    file.write_text(content)
    assert end_orphans(work) == []
    check_training(work)
