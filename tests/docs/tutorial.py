"""The commands of docs/tutorial.md, as a reader would paste them into one shell."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from docs.pages import DOCS, blocks

PAGE = DOCS / "tutorial.md"


def run_page(folder: Path) -> Path:
    """Runs all blocks of the page in one shell in a folder; returns the file with what they print.

    The server gets a free port in place of 8000; nothing else differs from the page. A line before the output of each block has
    its number and the seconds since the start.

    Raises:
        RuntimeError: a command failed.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    parts = [f'echo "### block {number} after $SECONDS s"\n{block}' for number, block in enumerate(blocks(PAGE, "sh"), 1)]
    script = "\n".join(["set -euo pipefail", *parts, 'echo "### end after $SECONDS s"'])
    script = script.replace("127.0.0.1:8000", f"127.0.0.1:{port}").replace("--port 8000", f"--port {port}")
    (folder / "page.sh").write_text(script)
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MEDSAM2_ATLAS_MODELS": str(folder / "models"),
        "MEDSAM2_ATLAS_STATE": str(folder / "state"),
        "MONAI_LABEL_SESSION_PATH": str(folder / "sessions"),
        "COLUMNS": "110",
        "NO_COLOR": "1",
    }
    environment.pop("MEDSAM2_CHECKPOINT", None)
    environment.pop("MEDSAM2_ATLAS", None)
    printed = folder / "printed.txt"
    with printed.open("w") as stream:
        process = subprocess.Popen(
            ["bash", "page.sh"], cwd=folder, env=environment, stdout=stream, stderr=stream, start_new_session=True
        )
        try:
            status = process.wait()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)  # the server, if a block before the one that stops it failed
    if status:
        raise RuntimeError(f"{printed}: a command ended with status {status}\n{printed.read_text()[-3000:]}")
    return printed
