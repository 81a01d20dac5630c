"""A server that cannot start prints one line and ends."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from token_files import write_tokens


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("server_nonsense=1", "server settings: are not valid: nonsense: Extra inputs are not permitted."),
        ("server_tokens=tokens.yaml", "is not a list of tokens"),
    ],
)
def test_unusable_settings_end_in_a_one_line_message(setting: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    write_tokens(tmp_path / "tokens.yaml", "kim")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    done = subprocess.run(
        [sys.executable, "-m", "medsam2_atlas", "serve", "studies", "--port", port, "--conf", setting],
        cwd=tmp_path,
        env={**os.environ, "MEDSAM2_ATLAS_STATE": str(tmp_path / "state"), "COLUMNS": "400"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr + done.stdout
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert words in done.stderr.splitlines()[-1]
