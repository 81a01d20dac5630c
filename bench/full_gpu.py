"""A server on a GPU that another program has filled: does it start, does it answer, and where does it segment?

Another process takes the card's memory and leaves some megabytes of it. Prints, for each amount, seconds until the server
answered, what each model's report says, and the server's memory on the card at the end.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.table import Table

from studies import make_studies

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from app.running import process_of, server
from medsam2_atlas.console import console

LEFT = [int(text) for text in sys.argv[1:]] or [100, 700, 1200, 100_000]
MODELS = {"unet_3d": {}, "medsam2_atlas": {"strategy": "B"}, "medsam2": {"label": "liver", "foreground": [[60, 60, 30]]}}
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
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        conf = make_studies(folder, 1, 4711, 3.0) | {"device": "cuda:0"}
        for number, megabytes in enumerate(LEFT):
            with filled(megabytes) as left:
                began = time.perf_counter()
                with server(folder / "studies", folder / f"work-{number}", conf, anew=True) as client:
                    ready = f"{time.perf_counter() - began:.1f} s"
                    for model, options in MODELS.items():
                        began = time.perf_counter()
                        organs = (
                            {} if model == "medsam2" else {"organs": "liver,spleen"}
                        )  # a part is not kept for the next server
                        _, answer = client.infer(model, "case-0", {**options, **organs})
                        report = answer["report"]
                        seconds = f"{time.perf_counter() - began:.1f}"
                        held = held_by(process_of(client).pid)
                        table.add_row(left, ready, model, seconds, report["device"], report.get("memory", ""), held)
                        left = ready = ""
    console.print(table)


if __name__ == "__main__":
    main()
