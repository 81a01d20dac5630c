"""Measures what rules of prompts (prompt_rules.py) do to MedSAM2's masks, on cases that `bench/fusion.py --prepare` stored.

`python bench/rule_dice.py FOLDER --set anat4 --rules certain:0.25` prints the Dice of one pass with three boxes per organ, for
the published boxes and for each rule. The transform to the common space is not stored, so `vessels` cannot be measured here.
Cases that were stored without evidence have no confidence; prepare them again for `slack`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from fusion import Stored
from prompt_rules import PUBLISHED, Found, prompts_by
from rich.table import Table

from medsam2_atlas.atlas import Atlas
from medsam2_atlas.base.choices import DEFAULT_THRESHOLDS
from medsam2_atlas.base.console import console
from medsam2_atlas.base.files import write_json
from medsam2_atlas.imaging.dice import dice_per_organ
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import read_volume
from medsam2_atlas.medsam2 import find_checkpoint, load_weights
from medsam2_atlas.prompting import prompting_config, prompts_from_scores
from medsam2_atlas.segmenters.base import Options
from medsam2_atlas.segmenters.case import Case, Clock
from medsam2_atlas.segmenters.fusion import fuse_logits
from medsam2_atlas.segmenters.resources import LoadedResources


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder of `bench/fusion.py`")
    parser.add_argument("--set", default="anat4", help="the set of cases")
    parser.add_argument("--only", default="", help="part of the names of the cases")
    parser.add_argument("--rules", default="certain:0.25", help="comma-separated rules")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    given = parser.parse_args()
    torch.set_num_threads(1)
    folder, table = given.work / given.set, organ_table()
    atlas, weights = Atlas.load(folder / "atlas"), load_weights(find_checkpoint())
    found: dict[str, dict[str, dict[int, float]]] = {}
    for file in sorted((folder / "cases").glob(f"*{given.only}*.npz")):
        case = Stored.load(file)
        image = read_volume(folder / "images" / f"{case.name}.nii.gz")
        engine = Case(image, LoadedResources(atlas, weights), Options())
        prompts = prompts_from_scores(case.scores, table, table.indices, prompting_config().three_boxes, DEFAULT_THRESHOLDS)
        organs = [k for k in table.indices if (case.truth == k).any()]
        for rule in (PUBLISHED, *given.rules.split(",")):
            logits = case.passes["first"]
            if rule != PUBLISHED:
                chosen = prompts_by(rule, Found(case.scores, DEFAULT_THRESHOLDS, prompts))
                logits = engine.logits(chosen.prompts, Clock())
            dice = dice_per_organ(fuse_logits(logits, case.truth.shape), case.truth, organs)
            found.setdefault(rule, {})[case.name] = dice
            console.print(f"{case.name}: {rule} {np.mean(list(dice.values())):.3f}")
    shown = Table("Dice", *found)
    for organ in table.organs:
        cells = [[dice[organ.index] for dice in cases.values() if organ.index in dice] for cases in found.values()]
        shown.add_row(organ.display, *(f"{np.mean(values):.3f}" if values else "-" for values in cells))
    means = {rule: np.array([np.mean(list(dice.values())) for dice in cases.values()]) for rule, cases in found.items()}
    shown.add_row("mean over cases", *(f"{values.mean():.3f}" for values in means.values()))
    gains = [values - means[PUBLISHED] for values in means.values()]
    shown.add_row("gain per case", *(" ".join(f"{g:+.3f}" for g in gain) for gain in gains))
    console.print(shown)
    if given.out:
        write_json(
            {r: {c: {table[k].name: v for k, v in d.items()} for c, d in cases.items()} for r, cases in found.items()},
            given.out,
        )


if __name__ == "__main__":
    main()
