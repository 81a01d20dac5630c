"""A server on a GPU that another program has filled: does it start, does it answer, and where does it segment?

Another process takes the card's memory and leaves some megabytes of it. Prints, for each amount, seconds until the server
answered, what each model's report says, and the server's memory on the card at the end.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import SimpleITK as sitk
import torch
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from app.running import process_of, server
from medsam2_atlas.atlas import find_references
from medsam2_atlas.base.console import console
from medsam2_atlas.base.resource import resource

LEFT = [int(text) for text in sys.argv[1:]] or [100, 1200, 100_000]
FILL = """
import sys, torch
free, _ = torch.cuda.mem_get_info()
held = torch.empty(max(0, free - int(sys.argv[1]) * 2**20), dtype=torch.uint8, device="cuda")
print(torch.cuda.mem_get_info()[0] >> 20, flush=True)
sys.stdin.read()
"""


@contextmanager
def filled(megabytes: int) -> Iterator[str]:
    """A card with so many megabytes left, as the program that fills it sees them."""
    command = [sys.executable, "-c", FILL, str(megabytes)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.kill()


def held_by(pid: int) -> str:
    """What the driver says that a process holds on the card."""
    asked = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader"]
    told = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    return next((line.split(",")[1].strip() for line in told.splitlines() if line.split(",")[0] == str(pid)), "nothing")


def main() -> None:
    if not torch.cuda.is_available():
        raise SystemExit("There is no GPU here.")
    table = Table("MiB left", "server answers after", "model", "s", "device", "memory", "server holds")
    image = find_references(resource("sample-data") / "targets")[0].image
    size = sitk.ReadImage(str(image)).GetSize()
    clicked = {"label": "liver", "foreground": [[size[0] // 3, size[1] // 2, size[2] * 2 // 3]], "reach": "40"}
    models: dict[str, dict[str, Any]] = {"unet_3d": {"organs": "liver"}, "medsam2": clicked}  # a part: it is not kept
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "studies").mkdir()
        shutil.copy(image, folder / "studies" / "case.nii.gz")
        for number, megabytes in enumerate(LEFT):
            with filled(megabytes) as left:
                began = time.perf_counter()
                conf = {"device": "cuda:0", "learning": "false"}
                with server(folder / "studies", folder / f"work-{number}", conf, anew=True) as client:
                    ready = f"{time.perf_counter() - began:.1f} s"
                    for model, options in models.items():
                        began = time.perf_counter()
                        report = client.infer(model, "case", options)[1]["report"]
                        seconds = f"{time.perf_counter() - began:.1f}"
                        held = held_by(process_of(client).pid)
                        table.add_row(left, ready, model, seconds, report["device"], report.get("memory", ""), held)
                        left = ready = ""
    console.print(table)


if __name__ == "__main__":
    main()
