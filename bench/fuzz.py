"""Sends 20,000 image files with mutated headers through the routes of a real server (`make fuzz`).

The server must keep running, answer `/info` quickly, and need no more memory over time. Prints the statuses by route, and the
memory after every thousand files.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import requests

from studies import make_studies

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from app.attack import attack
from app.running import process_of, server
from medsam2_atlas.base.console import console

FILES, STEP, SEED = 20_000, 1_000, 2026


def main() -> None:
    answers: Counter[tuple[str, int]] = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        conf = make_studies(folder, 1, 4714, 6.0)
        with server(folder / "studies", folder / "work", conf, anew=True) as client:
            url, process, used = client.get_server_url().rstrip("/"), psutil.Process(process_of(client).pid), []
            began = time.monotonic()
            for n in range(0, FILES, STEP):
                answers += attack(url, SEED + n, STEP, folder / "originals")
                sent = time.monotonic()
                assert requests.get(f"{url}/info/", timeout=10).status_code == 200
                info = time.monotonic() - sent
                used.append(process.memory_info().rss / 2**20)
                passed = time.monotonic() - began
                console.print(f"{n + STEP:6d} files, {passed:5.0f} s: {used[-1]:6.0f} MiB, /info in {1000 * info:.0f} ms")
    slope = np.polyfit(np.arange(len(used)), used, 1)[0]
    for (route, status), count in sorted(answers.items()):
        console.print(f"{route:8} {status}: {count:6d}")
    console.print(f"memory {min(used):.0f} to {max(used):.0f} MiB, {slope:+.2f} MiB per {STEP} files")
    assert not [status for _, status in answers if status >= 500], "a file caused an internal error of the server"


if __name__ == "__main__":
    main()
