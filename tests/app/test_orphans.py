"""A training survives a server that is killed, and is ended by the next server."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.running import process_of, server
from medsam2_atlas.atlas import ReferenceFiles
from tiny_unets import small_unet_file
from waiting import until


def trainings(studies: Path) -> list[psutil.Process]:
    """Returns the training processes of a studies folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if "monailabel.interfaces.utils.app" in (process.info["cmdline"] or []):
            try:
                if process.environ().get("MONAI_LABEL_STUDIES") == str(studies) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
    return found


@pytest.mark.slow
def test_the_next_server_and_an_orderly_shutdown_end_a_training(
    references: list[ReferenceFiles], tmp_path: Path, request: Any
) -> None:
    studies = (tmp_path / "studies").resolve()
    (studies / "labels/final").mkdir(parents=True)
    for files in references[:3]:
        (studies / files.image.name).write_bytes(files.image.read_bytes())
        (studies / "labels/final" / files.image.name).write_bytes(files.label.read_bytes())
    small_unet_file(tmp_path / "endless.yaml", epochs=100_000, patches_per_case=1, validate_every=5, learning_rate=0.01)
    conf = {"learning": "false", "unet_3d_config": str(tmp_path / "endless.yaml")}
    claim, checkpoints = studies / ".medsam2_atlas/claims/train.json", studies / ".medsam2_atlas/unet_3d"

    with server(studies, tmp_path / "first", conf, anew=True) as client:
        client.train_start("unet_3d", {"pretrained": False})
        until(lambda: claim.exists() and claim.read_text() and list(checkpoints.glob("*.pt")), 120, "no training")
        process_of(client).send_signal(signal.SIGKILL)
        process_of(client).wait()
        (orphan,) = trainings(studies)
        kept = {file.name: file.stat().st_size for file in checkpoints.glob("*.pt")}
    time.sleep(2.0)
    assert orphan.is_running()  # MONAI Label's process does not notice that its server has ended

    with server(studies, tmp_path / "second", conf, anew=True) as client:
        assert trainings(studies) == []
        assert "because its server has ended" in (tmp_path / "second/server.log").read_text()
        assert kept.keys() <= {file.name for file in checkpoints.glob("*.pt")}
        client.train_start("unet_3d", {"pretrained": False})
        until(lambda: client.info()["train_stats"]["unet_3d"].get("resumed_from"), 120, "the training does not resume")
        assert len(trainings(studies)) == 1
        began = time.monotonic()
        process_of(client).send_signal(signal.SIGTERM)
        assert process_of(client).wait(20) == -signal.SIGTERM
        assert time.monotonic() - began < 20
    until(lambda: trainings(studies) == [], 10)
