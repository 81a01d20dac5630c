"""Tests a server on a GPU whose memory another program has filled (`make full-gpu`).

Another process allocates the GPU's memory and leaves a given amount free. Prints, for each amount, the seconds until the server
answers, the device and memory step in each model's report, and the server's GPU memory at the end.
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
    """Fills the GPU's memory except `megabytes` MiB for the duration of the block; yields the free MiB."""
    command = [sys.executable, "-c", FILL, str(megabytes)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.kill()


def gpu_memory_of(pid: int) -> str:
    """Returns the GPU memory of a process according to the driver."""
    query = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader"]
    printed = subprocess.run(query, capture_output=True, text=True, check=False).stdout
    return next((line.split(",")[1].strip() for line in printed.splitlines() if line.split(",")[0] == str(pid)), "none")


def main() -> None:
    if not torch.cuda.is_available():
        raise SystemExit("This machine has no GPU that PyTorch can use.")
    table = Table("MiB free", "server answers after", "model", "s", "device", "memory", "server's GPU memory")
    image = find_references(resource("sample-data") / "targets")[0].image
    size = sitk.ReadImage(str(image)).GetSize()
    clicked = {"label": "liver", "foreground": [[size[0] // 3, size[1] // 2, size[2] * 2 // 3]], "reach": "40"}
    models: dict[str, dict[str, Any]] = {
        "unet_3d": {"organs": "liver"},
        "medsam2": clicked,
    }  # one organ: the result is not stored
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
                        held = gpu_memory_of(process_of(client).pid)
                        table.add_row(left, ready, model, seconds, report["device"], report.get("memory", ""), held)
                        left = ready = ""
    console.print(table)


if __name__ == "__main__":
    main()
