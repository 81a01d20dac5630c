"""Measures prompt accuracy by registration method, leave-one-out over sets of annotated CTs (`make prompts`).

For each target, an atlas is built from the other subjects. Each method registers the target to the atlas' common space; the
score maps, thresholds and boxes are computed in the same way for all. Prints for each organ and method: Dice of the score map,
errors of the prompting region's centre and ends in mm, IoU of the boxes with the organ's ground-truth box on the same slices,
and organs without a usable prompt. Prints for each method: processor and wall time in seconds for a target, and peak memory of
the process. `--copies 8` adds seven copies of each target with a little noise, and prints the resulting deviation of the mean.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import matplotlib as mpl
import numpy as np
from leave_one_out import atlas_of, atlases
from prompt_sets import MAKERS, NEED_REAL, REAL, Task, chosen, tasks_of
from registrations import METHODS
from rich.table import Table

from medsam2_atlas.atlas import Atlas
from medsam2_atlas.base.choices import DEFAULT_THRESHOLDS, ThresholdRule
from medsam2_atlas.base.console import console
from medsam2_atlas.base.files import replacing, write_json
from medsam2_atlas.evaluation import dice_per_organ, evaluation_config, prompt_errors
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.masks import at_ends, without_specks
from medsam2_atlas.imaging.volume import Volume, read_labels, read_volume
from medsam2_atlas.prompting import prompting_config, prompts_from_scores
from medsam2_atlas.registration import WorkImage, registration_config
from medsam2_atlas.scoremaps import Alignment, fused_scores
from medsam2_atlas.segmenters.fusion import fuse_scores

mpl.use("Agg")
_NOISE_HU = 4.0


@dataclass(frozen=True)
class Row:
    """The results of a method for an organ of a target.

    Attributes:
        set: name of the set of CTs.
        target: name of the target.
        copy: 0 for the target itself, or the number of a noisy copy.
        method: name of the method.
        organ: name of the organ.
        dice: Dice of the score map.
        centre: error of the prompting region's centre, mm; None without a prompt.
        z_min: error of its lower end, mm; None without a prompt.
        z_max: error of its upper end, mm; None without a prompt.
        iou: IoU of each box with the ground-truth box on its slice.
        usable: whether the organ has a usable prompt.
        cut: whether the scan's ends cut the organ.
        folding: share of the deformation's cells that fold.
        confidence: confidence of the prompt, 0..1; None without a prompt.
        evidence: evidence of the score map, by kind.
    """

    set: str
    target: str
    copy: int
    method: str
    organ: str
    dice: float
    centre: float | None
    z_min: float | None
    z_max: float | None
    iou: tuple[float, ...]
    usable: bool
    cut: bool
    folding: float
    confidence: float | None
    evidence: dict[str, float]


def noisy(image: Volume, copy: int) -> Volume:
    """Returns the image itself for copy 0, or the image with noise that is too weak to see."""
    if copy == 0:
        return image
    noise = np.random.default_rng(copy).normal(0, _NOISE_HU, image.array.shape)
    return replace(image, array=(image.array + noise).astype(np.float32))


def evaluate(
    kind: str, method: str, targets: list[tuple[Task, Path]], rule: str, copies: int
) -> tuple[list[Row], dict[str, float]]:
    """Evaluates a method on all targets of a set; called in a separate process.

    Args:
        kind: name of the set.
        method: name of the method.
        targets: each task, and the folder of its atlas.
        rule: rule for the thresholds of score maps.
        copies: number of copies of each target, including the target itself.

    Returns:
        The rows, and the median processor and wall seconds of a target and the peak memory of the process in MiB.
    """
    config, table = registration_config(), organ_table()
    rows: list[Row] = []
    cpu, wall = [], []
    for (task, folder), copy in itertools.product(targets, range(copies)):
        atlas = Atlas.load(folder)
        image, truth = noisy(read_volume(task.target.image), copy), read_labels(task.target.label)
        began, used = time.perf_counter(), time.process_time()
        work = WorkImage.of(image, config.spacing, config.image)
        registration, fusion = METHODS[method]
        transform = registration(work, atlas.template, config)
        scores = fused_scores(Alignment(image, work, atlas, transform, transform.inverse()), fusion)
        prompts = prompts_from_scores(scores, table, table.indices, prompting_config().three_boxes, rule)
        sure = {prompt.label: prompt.confidence for prompt in prompts.prompts}
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - used)
        folding = max((step.folding() for step in transform.maps if hasattr(step, "folding")), default=0.0)
        dice = dice_per_organ(fuse_scores(scores), truth.array, table.indices)
        cut = at_ends(without_specks(truth.array, evaluation_config().min_piece_share))
        for k, error in prompt_errors(prompts, truth, [k for k in table.indices if k in atlas.maps]).items():
            values: dict[str, Any] = {"centre": None, "z_min": None, "z_max": None, "iou": (), "usable": False, "cut": k in cut}
            if error is not None:
                values = {**asdict(error), "usable": error.usable}
            evidence = dict(scores.maps[k].evidence) if k in scores.maps else {}
            rows.append(
                Row(
                    kind, task.name, copy, method, table[k].name, dice[k],
                    folding=folding, confidence=sure.get(k), evidence=evidence, **values,
                )
            )  # fmt: skip
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return rows, {"cpu_s": float(np.median(cpu)), "wall_s": float(np.median(wall)), "peak_mib": peak}


def summary(rows: list[Row], costs: dict[tuple[str, str], dict[str, float]]) -> list[dict[str, Any]]:
    """Returns the mean results of each set and method."""
    entries = []
    for kind, method in dict.fromkeys((row.set, row.method) for row in rows):
        mine = [row for row in rows if (row.set, row.method) == (kind, method)]
        found = [row for row in mine if row.centre is not None]
        whole = [row for row in found if not row.cut]
        means = [np.mean([row.centre for row in found if row.copy == copy]) for copy in {row.copy for row in found}]
        entries.append(
            {
                "set": kind,
                "method": method,
                "dice": np.mean([row.dice for row in mine]),
                "centre": np.mean([row.centre for row in found]),
                "centre_spread": np.std(means),
                "centre_median": np.median([row.centre for row in found]),
                "centre_whole": np.mean([row.centre for row in whole]),
                "z_min": np.mean([abs(row.z_min) for row in whole]),
                "z_max": np.mean([abs(row.z_max) for row in whole]),
                "iou": np.mean([np.mean(row.iou) if row.iou else 0.0 for row in mine]),
                "lost": np.mean([not row.usable for row in mine]),
                "lost_whole": sum(not row.usable and not row.cut for row in mine),
                "folding": np.max([row.folding for row in mine]),
                "organs": len(mine),
                **costs[kind, method],
            }
        )
    return entries


def show(entries: list[dict[str, Any]], rows: list[Row]) -> None:
    """Prints the tables."""
    table = Table(
        "set",
        "method",
        "Dice",
        "centre mm (median; fully imaged organs)",
        "|z_min|, |z_max| mm",
        "box IoU",
        "no usable prompt (fully imaged organs)",
        "CPU s",
        "wall s",
        "MiB",
    )
    for e in entries:
        spread = f" ± {e['centre_spread']:.1f}" if e["centre_spread"] else ""
        table.add_row(
            e["set"],
            e["method"],
            f"{e['dice']:.3f}",
            f"{e['centre']:.1f}{spread} ({e['centre_median']:.1f}; {e['centre_whole']:.1f})",
            f"{e['z_min']:.1f}, {e['z_max']:.1f}",
            f"{e['iou']:.3f}",
            f"{e['lost']:.1%} ({e['lost_whole']})",
            f"{e['cpu_s']:.1f}",
            f"{e['wall_s']:.1f}",
            f"{e['peak_mib']:.0f}",
        )
    console.print(table)
    methods = list(dict.fromkeys(row.method for row in rows))
    for kind in dict.fromkeys(row.set for row in rows):
        by_organ = Table("organ", *methods, title=f"{kind}: mean centre error in mm / box IoU")
        for organ in organ_table().organs:
            cells = []
            for method in methods:
                mine = [r for r in rows if (r.set, r.method, r.organ) == (kind, method, organ.name)]
                centres = [r.centre for r in mine if r.centre is not None]
                iou = [np.mean(r.iou) if r.iou else 0.0 for r in mine]
                cells.append(f"{np.mean(centres):.1f} / {np.mean(iou):.2f}" if centres else "-")
            by_organ.add_row(organ.display, *cells)
        console.print(by_organ)


def plot(rows: list[Row], file: Path) -> None:
    """Draws box plots of the centre errors, by set and method."""
    import matplotlib.pyplot as plt

    kinds, methods = (list(dict.fromkeys(getattr(row, key) for row in rows)) for key in ("set", "method"))
    figure, axes = plt.subplots(1, len(kinds), figsize=(4 * len(kinds), 3.2), squeeze=False, sharey=True)
    for axis, kind in zip(axes[0], kinds, strict=True):
        values = [[r.centre for r in rows if (r.set, r.method) == (kind, m) and r.centre is not None] for m in methods]
        axis.boxplot(values, tick_labels=methods, showfliers=False)
        axis.set_title(kind)
        axis.tick_params(axis="x", rotation=30)
    axes[0][0].set_ylabel("error of the region's centre, mm")
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default=",".join(MAKERS), help=f"{', '.join(MAKERS)}, or folders with images/ and labels/")
    parser.add_argument("--targets", default="", help="comma-separated parts of the names of the targets to measure")
    parser.add_argument("--methods", default=",".join(METHODS), help="comma-separated names of the methods")
    parser.add_argument("--phantoms", type=int, default=8, help="number of generated patients")
    parser.add_argument("--variants", type=int, default=2, help="number of deformed variants of each real label map")
    parser.add_argument("--copies", type=int, default=1, help="copies of each target; all but the first have a little noise")
    parser.add_argument(
        "--thresholds", default=DEFAULT_THRESHOLDS, choices=get_args(ThresholdRule), help="thresholds of the score maps"
    )
    parser.add_argument("--work", type=Path, help="folder that keeps sets and atlases for the next run")
    parser.add_argument("--out", type=Path, help="JSON file to write all figures to")
    parser.add_argument("--plot", type=Path, help="PNG file to write a plot of the centre errors to")
    given = parser.parse_args()
    methods = [m for m in given.methods.split(",") if m]
    rows: list[Row] = []
    costs: dict[tuple[str, str], dict[str, float]] = {}
    arguments = {"phantoms": (given.phantoms,), "anatomy": (given.variants,)}
    with tempfile.TemporaryDirectory() as name:
        work = given.work or Path(name)
        work.mkdir(parents=True, exist_ok=True)
        for kind in given.sets.split(","):
            if kind in NEED_REAL and not REAL.is_dir():
                console.print(f"{kind}: left out, because there are no real CTs in {REAL}")
                continue
            folder = work / kind if kind in MAKERS else Path(kind)
            if kind in MAKERS and not folder.exists():
                with replacing(folder) as part:  # so that an interrupted run leaves no incomplete set
                    MAKERS[kind](part, *arguments.get(kind, ()))
            tasks = chosen(tasks_of(kind, folder), given.targets)
            targets = {way: atlases(tasks, way, work / "atlases" / Path(kind).name) for way in map(atlas_of, methods)}
            for method in methods:
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                    try:
                        mine, cost = pool.submit(
                            evaluate, Path(kind).name, method, targets[atlas_of(method)], given.thresholds, given.copies
                        ).result()
                    except ImportError as error:
                        console.print(f"{method}: left out ({error})")
                        continue
                rows += mine
                costs[Path(kind).name, method] = cost
    entries = summary(rows, costs)
    show(entries, rows)
    if given.out:
        write_json(
            {"summary": json.loads(json.dumps(entries, default=float)), "rows": [asdict(row) for row in rows]}, given.out
        )
    if given.plot:
        plot(rows, given.plot)


if __name__ == "__main__":
    main()
