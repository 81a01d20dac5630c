"""Measures the Dice of each segmenter on generated targets, with the sample references and demo weights (`make figures`).

The targets belong to another population than the references and the training data of the demo weights.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
from rich.console import Console
from rich.table import Table

from medsam2_atlas.atlas import Atlas, build_atlas, find_references
from medsam2_atlas.base.choices import DEFAULT_THRESHOLDS, ThresholdRule
from medsam2_atlas.base.console import bars
from medsam2_atlas.base.files import write_json
from medsam2_atlas.base.resource import resource
from medsam2_atlas.demo.phantoms import write_dataset
from medsam2_atlas.evaluation import dice_per_organ, mean_dice
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import read_labels, read_volume
from medsam2_atlas.medsam2 import find_checkpoint, load_weights
from medsam2_atlas.segmenters.base import Options
from medsam2_atlas.segmenters.case import Case
from medsam2_atlas.segmenters.places import find_unet
from medsam2_atlas.segmenters.registry import trainable
from medsam2_atlas.segmenters.resources import LoadedResources
from medsam2_atlas.segmenters.strategies import REFERENCE_STRATEGIES, STRATEGIES, segment
from medsam2_atlas.unet import load_unet

TARGET_SEED = 99
UNET = trainable()[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=6, help="number of targets")
    parser.add_argument("--targets", type=Path, help="folder with images/ and labels/; default: generated targets")
    parser.add_argument("--atlas", type=Path, help="atlas folder; default: an atlas of the sample references")
    parser.add_argument("--checkpoint", type=Path, help="MedSAM2 weights file; default: as for `medsam2-atlas segment`")
    parser.add_argument(
        "--segmenters",
        "--strategies",
        dest="names",
        default=",".join([*STRATEGIES, UNET]),
        help="comma-separated names of the segmenters",
    )
    parser.add_argument(
        "--thresholds", default=DEFAULT_THRESHOLDS, choices=get_args(ThresholdRule), help="thresholds of the score maps"
    )
    parser.add_argument("--out", type=Path, help="JSON file to write all figures to")
    given = parser.parse_args()
    console = Console()
    weights = load_weights(find_checkpoint(given.checkpoint))
    unets = {name: load_unet(find_unet(name)) for name in (UNET,)}
    names = given.names.split(",")
    scores: dict[str, list[dict[int, float]]] = {name: [] for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder, bars() as progress:
        targets = given.targets or Path(folder)
        if given.targets is None:
            write_dataset(targets, given.count, TARGET_SEED, progress=progress)
        atlas = (
            Atlas.load(given.atlas)
            if given.atlas
            else build_atlas(find_references(resource("sample-data") / "references"), progress=progress)
        )
        files = find_references(targets)[: given.count]
        for number, file in enumerate(files):
            image = read_volume(file.image)
            truth = read_labels(file.label, image)
            resources, usual = LoadedResources(atlas, weights, unets), Options(thresholds=given.thresholds)
            case = Case(image, resources, usual)
            for name in names:
                case.options = replace(usual, truth=truth) if name in REFERENCE_STRATEGIES else usual
                result = segment(case, name) if name in STRATEGIES else resources.segmenter(name).segment(image, usual)
                scores[name].append(dice_per_organ(result.labels.array, truth.array, organ_table().indices))
                seconds[name].append(result.report.seconds["total"])
            progress("targets", (number + 1) / len(files))
    table = Table("organ", *names, title=f"Dice, {len(files)} generated targets, {len(atlas.references)} references")
    for organ in organ_table().organs:
        table.add_row(
            organ.display, *(f"{np.mean([d[organ.index] for d in scores[n] if organ.index in d]):.2f}" for n in names)
        )
    table.add_section()
    means = {name: np.array([mean_dice(d) for d in scores[name]]) for name in names}
    table.add_row("mean", *(f"{means[n].mean():.3f}" for n in names))
    table.add_row("deviation", *(f"{means[n].std():.3f}" for n in names))
    table.add_row("lowest", *(f"{means[n].min():.3f}" for n in names))
    table.add_row("median s", *(f"{np.median(seconds[n]):.1f}" for n in names))
    console.print(table)
    console.print(weights.mark)
    if given.out:
        write_json({n: {"mean": means[n].tolist(), "organs": scores[n], "seconds": seconds[n]} for n in names}, given.out)


if __name__ == "__main__":
    main()
