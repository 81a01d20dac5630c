"""Measures time and memory from a CT of 512 × 512 × 200 voxels to its prompts, with 15 and 60 references (`make atlas-time`).

The atlas consists of 15 generated patients. The other references are copies whose thumbnails are noise, so that they resemble
no target: the same 15 references vote for every target, and only the number of references to choose from differs. Each run is a
separate process, so that peak memory is measured separately. Runs with 15 and 60 references alternate, because a machine's
speed varies.
"""

from __future__ import annotations

import copy
import multiprocessing
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from large_ct import SIZE, large_ct
from rich.table import Table

from medsam2_atlas.atlas import Atlas, Reference, build_atlas, find_references
from medsam2_atlas.base.console import console
from medsam2_atlas.demo.phantoms import write_dataset
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.prompting import prompting_config, prompts_from_scores
from medsam2_atlas.scoremaps import score_maps

PATIENTS, COUNTS, RUNS = 15, (15, 60), 3


def measure(folder: Path, count: int) -> tuple[float, float, float]:
    """Returns wall and processor seconds of a target, and the peak memory of the process in GiB."""
    torch.set_num_threads(2)
    atlas = Atlas.load(folder)
    atlas = replace(atlas, references=(*atlas.references, *_strangers(atlas, count - PATIENTS)))
    table, image = organ_table(), large_ct()
    began, used = time.perf_counter(), time.process_time()
    prompts = prompts_from_scores(score_maps(image, atlas), table, table.indices, prompting_config().three_boxes)
    wall, cpu = time.perf_counter() - began, time.process_time() - used
    assert len(prompts.prompts) > 10
    return wall, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _strangers(atlas: Atlas, count: int) -> list[Reference]:
    """Returns copies of the atlas' references that are never chosen to vote."""
    generator = np.random.default_rng(0)
    copies = [copy.deepcopy(atlas.references[n % PATIENTS]) for n in range(count)]
    return [replace(r, thumbnail=generator.normal(0, 100, r.thumbnail.shape).astype(r.thumbnail.dtype)) for r in copies]


def main() -> None:
    table = Table("references", "wall s", "processor s", "peak GiB", title=f"{SIZE} voxels to prompts, median of {RUNS}")
    with tempfile.TemporaryDirectory() as name:
        write_dataset(Path(name) / "references", PATIENTS, 4715, spacing=4.0)
        build_atlas(find_references(Path(name) / "references")).save(Path(name) / "atlas")
        found: dict[int, list[tuple[float, float, float]]] = {count: [] for count in COUNTS}
        for count in COUNTS * RUNS:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                found[count].append(pool.apply(measure, (Path(name) / "atlas", count)))
        for count, runs in found.items():
            wall, cpu, peak = np.median(runs, axis=0)
            table.add_row(str(count), f"{wall:.1f}", f"{cpu:.1f}", f"{peak:.2f}")
    console.print(table)


if __name__ == "__main__":
    main()
