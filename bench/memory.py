"""Measures whether a server's memory grows over 300 successive inferences (`make memory`).

The images are generated patients. Models, organs and patients alternate, so that no result comes from a cache.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from studies import make_studies

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from app.running import process_of, server
from medsam2_atlas.base.console import console
from medsam2_atlas.imaging.labels import organ_table

INFERENCES, CASES, SHOWN_EVERY, SETTLED = 300, 4, 25, 50


def main() -> None:
    organs = [organ.name for organ in organ_table().organs]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        conf = make_studies(folder, CASES, 4713, 5.0)
        with server(folder / "studies", folder / "work", conf, anew=True) as client:
            process, used, began = psutil.Process(process_of(client).pid), [], time.monotonic()
            for n in range(INFERENCES):
                model = ("unet_3d", "atlas", "unet_3d", "medsam2_atlas")[n % 4]
                options = {"organs": [organs[n % len(organs)]]} | ({"segmenter": "A"} if model == "medsam2_atlas" else {})
                file, _ = client.infer(model, f"case-{n % CASES}", options)
                Path(file).unlink()
                used.append(process.memory_info().rss / 2**20)
                if (n + 1) % SHOWN_EVERY == 0:
                    console.print(f"{n + 1:4d} inferences, {time.monotonic() - began:5.0f} s: {used[-1]:6.0f} MiB")
    rest = np.array(used[SETTLED:])
    slope = np.polyfit(np.arange(len(rest)), rest, 1)[0] * 100
    console.print(f"after the first {SETTLED}: {rest.min():.0f} to {rest.max():.0f} MiB, {slope:+.1f} MiB per 100 inferences")


if __name__ == "__main__":
    main()
