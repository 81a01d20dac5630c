"""Measures prompt accuracy by registration method, leave-one-out over sets of annotated CTs (`make prompts`).

For each target, an atlas is built from the other subjects. Each method registers the target to the atlas' common space; methods
with the same registration share it, and its seconds count for each. Score maps, thresholds and boxes are made in the same way
for all; `--rules` compares other boxes (prompt_rules.py). Prints for each organ and method: Dice of the score map,
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
from kept_registrations import registered
from leave_one_out import atlas_of, atlases, made_from
from prompt_rows import Row, rows_of
from prompt_rules import PUBLISHED, Found, prompts_by
from prompt_sets import MAKERS, NEED_REAL, REAL, Task, chosen, tasks_of
from registrations import DEFAULT_METHODS, METHODS, same_registration
from rich.table import Table

from medsam2_atlas.atlas import Atlas
from medsam2_atlas.base.choices import DEFAULT_THRESHOLDS, ThresholdRule
from medsam2_atlas.base.console import console
from medsam2_atlas.base.files import replacing, write_json
from medsam2_atlas.evaluation import dice_per_organ
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import Volume, read_labels, read_volume
from medsam2_atlas.prompting import prompting_config, prompts_from_scores
from medsam2_atlas.registration import WorkImage, registration_config
from medsam2_atlas.scoremaps import Alignment, fused_scores
from medsam2_atlas.segmenters.fusion import fuse_scores

mpl.use("Agg")
_NOISE_HU = 4.0


@dataclass(frozen=True)
class Rules:
    """The rules of a run.

    Attributes:
        thresholds: the rule for the thresholds of score maps.
        prompts: the rules of prompts to compare; other methods than `ours` have the published one only.
    """

    thresholds: ThresholdRule
    prompts: tuple[str, ...]


def noisy(image: Volume, copy: int) -> Volume:
    """Returns the image itself for copy 0, or the image with noise that is too weak to see."""
    if copy == 0:
        return image
    noise = np.random.default_rng(copy).normal(0, _NOISE_HU, image.array.shape)
    return replace(image, array=(image.array + noise).astype(np.float32))


def evaluate(
    kind: str,
    methods: list[str],
    targets: list[tuple[Task, Path]],
    rules: Rules,
    copies: int,
    kept: Path | None,
) -> tuple[list[Row], dict[str, dict[str, float]]]:
    """Evaluates methods with the same registration on all targets of a set; called in a separate process.

    Args:
        kind: name of the set.
        methods: names of the methods.
        targets: each task, and the folder of its atlas.
        rules: the rules of prompts and thresholds.
        copies: number of copies of each target, including the target itself.
        kept: folder that keeps the registrations; None for none.

    Returns:
        The rows, and for each method the median processor and wall seconds of a target, registration included, and the peak
        memory of the process in MiB.
    """
    config = registration_config()
    rows: list[Row] = []
    cpu: dict[str, list[float]] = {method: [] for method in methods}
    wall: dict[str, list[float]] = {method: [] for method in methods}
    for (task, folder), copy in itertools.product(targets, range(copies)):
        atlas = Atlas.load(folder)
        image, truth = noisy(read_volume(task.target.image), copy), read_labels(task.target.label)
        began, used = time.perf_counter(), time.process_time()
        work = WorkImage.of(image, config.spacing, config.image)
        reduced_s, reduced_cpu_s = time.perf_counter() - began, time.process_time() - used
        registration = METHODS[methods[0]][0]
        place = None if kept is None else kept / f"{task.name}-{copy}".replace(" ", "_")
        found = registered(lambda: registration(work, atlas.template, config), place)  # noqa: B023 (called at once)
        for method in methods:
            began, used = time.perf_counter(), time.process_time()
            scores = fused_scores(Alignment(image, work, atlas, found.transform, found.inverse), METHODS[method][1])
            prompts = prompts_from_scores(
                scores, organ_table(), organ_table().indices, prompting_config().three_boxes, rules.thresholds
            )
            wall[method].append(reduced_s + found.wall_s + time.perf_counter() - began)
            cpu[method].append(reduced_cpu_s + found.cpu_s + time.process_time() - used)
            dice = dice_per_organ(fuse_scores(scores), truth.array, organ_table().indices)
            folding = max((step.folding() for step in found.transform.maps if hasattr(step, "folding")), default=0.0)
            for rule in rules.prompts if method == "ours" else (PUBLISHED,):
                about = Row(kind, task.name, copy, method, rule, folding=folding)
                rows += rows_of(about, dice, scores, prompts_by(rule, Found(scores, rules.thresholds, prompts)), truth)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return rows, {
        method: {"cpu_s": float(np.median(cpu[method])), "wall_s": float(np.median(wall[method])), "peak_mib": peak}
        for method in methods
    }


def summary(rows: list[Row], costs: dict[tuple[str, str], dict[str, float]]) -> list[dict[str, Any]]:
    """Returns the mean results of each set and method."""
    entries = []
    for kind, method, rule in dict.fromkeys((row.set, row.method, row.rule) for row in rows):
        mine = [row for row in rows if (row.set, row.method, row.rule) == (kind, method, rule)]
        found = [row for row in mine if row.centre is not None]
        whole = [row for row in found if not row.cut]
        means = [np.mean([row.centre for row in found if row.copy == copy]) for copy in {row.copy for row in found}]
        entries.append(
            {
                "set": kind,
                "method": mine[0].label,
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
    methods = list(dict.fromkeys(row.label for row in rows))
    for kind in dict.fromkeys(row.set for row in rows):
        by_organ = Table("organ", *methods, title=f"{kind}: mean centre error in mm / box IoU")
        for organ in organ_table().organs:
            cells = []
            for method in methods:
                mine = [r for r in rows if (r.set, r.label, r.organ) == (kind, method, organ.name)]
                centres = [r.centre for r in mine if r.centre is not None]
                iou = [np.mean(r.iou) if r.iou else 0.0 for r in mine]
                cells.append(f"{np.mean(centres):.1f} / {np.mean(iou):.2f}" if centres else "-")
            by_organ.add_row(organ.display, *cells)
        console.print(by_organ)


def plot(rows: list[Row], file: Path) -> None:
    """Draws box plots of the centre errors, by set and method."""
    import matplotlib.pyplot as plt

    kinds, methods = (list(dict.fromkeys(getattr(row, key) for row in rows)) for key in ("set", "label"))
    figure, axes = plt.subplots(1, len(kinds), figsize=(4 * len(kinds), 3.2), squeeze=False, sharey=True)
    for axis, kind in zip(axes[0], kinds, strict=True):
        values = [[r.centre for r in rows if (r.set, r.label) == (kind, m) and r.centre is not None] for m in methods]
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
    parser.add_argument("--methods", default=",".join(DEFAULT_METHODS), help=f"comma-separated methods: {', '.join(METHODS)}")
    parser.add_argument("--phantoms", type=int, default=8, help="number of generated patients")
    parser.add_argument("--variants", type=int, default=2, help="number of deformed variants of each real label map")
    parser.add_argument(
        "--shared-space", action="store_true", help="one common space for all CTs of a set; see leave_one_out.py"
    )
    parser.add_argument("--copies", type=int, default=1, help="copies of each target; all but the first have a little noise")
    parser.add_argument(
        "--thresholds", default=DEFAULT_THRESHOLDS, choices=get_args(ThresholdRule), help="thresholds of the score maps"
    )
    parser.add_argument("--rules", default=PUBLISHED, help="rules of the prompts of `ours`; see prompt_rules.py")
    parser.add_argument("--work", type=Path, help="folder that keeps sets, atlases and registrations for the next run")
    parser.add_argument("--out", type=Path, help="JSON file to write all figures to")
    parser.add_argument("--plot", type=Path, help="PNG file to write a plot of the centre errors to")
    given = parser.parse_args()
    methods = [m for m in given.methods.split(",") if m]
    rules = Rules(given.thresholds, tuple(given.rules.split(",")))
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
            given_for = arguments.get(kind, ())
            folder = work / "-".join(map(str, (kind, *given_for))) if kind in MAKERS else Path(kind)
            if kind in MAKERS and not folder.exists():
                with replacing(folder) as part:  # so that an interrupted run leaves no incomplete set
                    MAKERS[kind](part, *given_for)
            every = tasks_of(kind, folder)
            tasks, label = chosen(every, given.targets), Path(kind).name + ("-shared" if given.shared_space else "")
            everyone = [task.target for task in every] if given.shared_space else []
            place = f"{label}-{made_from(every)}"
            targets = {way: atlases(tasks, way, work / "atlases" / place, everyone) for way in map(atlas_of, methods)}
            for group in same_registration(methods):
                way = atlas_of(group[0])
                kept = given.work and work / "registrations" / place / f"{way}-{METHODS[group[0]][0].__name__}"
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                    try:
                        mine, cost = pool.submit(evaluate, label, group, targets[way], rules, given.copies, kept).result()
                    except ImportError as error:
                        console.print(f"{', '.join(group)}: left out ({error})")
                        continue
                rows += mine
                costs |= {(label, method): cost[method] for method in group}
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
