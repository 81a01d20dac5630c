"""Simulates the annotation loop on generated patients (`make loop`).

There are 24 studies, 4 of them signed off at first, and 6 held-out studies that are never used for training. In each round, a
strategy chooses the next cases, their ground truth is signed off as `final`, the atlas grows, and the U-Net is trained briefly.
Then each model is scored on the held-out studies. Three strategies start from the same state. Writes a plot and all figures.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from medsam2_atlas.active_learning import Assessment, ScoreTable, choose, disagreement, uncertainty
from medsam2_atlas.atlas import Atlas, ReferenceFiles, build_atlas, find_references
from medsam2_atlas.base.files import replacing, write_json
from medsam2_atlas.demo.phantoms import write_dataset
from medsam2_atlas.evaluation import dice_per_organ, mean_dice
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import read_labels, read_volume
from medsam2_atlas.medsam2 import find_checkpoint, load_weights
from medsam2_atlas.prompting import prompting_config, prompts_from_scores
from medsam2_atlas.registration import RegistrationCache
from medsam2_atlas.scoremaps import ScoreMaps, score_maps
from medsam2_atlas.segmenters.case import Case
from medsam2_atlas.segmenters.fusion import fuse_scores
from medsam2_atlas.segmenters.resources import LoadedResources
from medsam2_atlas.segmenters.strategies import segment
from medsam2_atlas.storage import WorkFolder
from medsam2_atlas.studies import grow_studies_atlas, grown_atlas
from medsam2_atlas.unet import TrainingCase, UNet, UNetConfig, UNetTraining, load_unet, predict, with_training

POPULATION = 77
STUDIES, FIRST, HELD_OUT = 24, 4, 6
STRATEGIES = ("disagreement", "uncertainty", "random")
MIN_SPAN = 0.08
UNET = UNetConfig.model_validate(
    {
        "dimensions": 3,
        "spacing": (5.0, 5.0, 5.0),
        "patch": (48, 48, 48),
        "filters": (12, 24, 48, 96),
        "training": {"patches_per_case": 2, "validate_every": 1000, "validation_share": 0.2, "early_stop": 0},
    }
)


@dataclass(frozen=True)
class Setting:
    """The data and options that all strategies share.

    Attributes:
        cases: the studies; the first ones are signed off at first.
        held_out: studies for scoring, which are never used for training.
        start: folder with the first atlas, U-Net and registrations.
        rounds: number of rounds.
        picks: number of cases that are chosen in each round.
        steps: optimiser steps in each round.
    """

    cases: list[ReferenceFiles]
    held_out: list[ReferenceFiles]
    start: Path
    rounds: int
    picks: int
    steps: int

    @property
    def cache(self) -> RegistrationCache:
        """The registrations to the first atlas' common space, which all later versions keep."""
        return RegistrationCache(self.start / "registrations")


def score(setting: Setting, atlas: Atlas, case: ReferenceFiles) -> ScoreMaps:
    return score_maps(read_volume(case.image), atlas, cache=setting.cache)


def warm(setting: Setting, atlas: Path, case: ReferenceFiles) -> None:
    """Registers a case once, for all strategies and rounds."""
    torch.set_num_threads(1)
    score(setting, Atlas.load(atlas), case)


def train(labelled: list[ReferenceFiles], folder: Path, start: UNet | None, steps: int) -> UNet:
    cases = [TrainingCase(case.name, case.image, case.label) for case in labelled]
    epochs = max(1, round(steps / (0.8 * len(cases))))
    config = with_training(UNET, {"epochs": epochs, "validate_every": max(1, epochs // 3)})
    run = UNetTraining(cases, config, folder, torch.device("cpu"), start=start)
    run.run()
    return load_unet(folder / "best.pt")


def evaluate(setting: Setting, atlas: Atlas, unet: UNet, with_network: bool) -> dict[str, float]:
    """Returns the mean Dice of each model on the held-out cases."""
    found: dict[str, list[float]] = {"atlas": [], "unet_3d": []}
    weights = load_weights(find_checkpoint()) if with_network else None
    for case in setting.held_out:
        image = read_volume(case.image)
        truth = read_labels(case.label, image).array

        def add_score(model: str, labels: np.ndarray, truth: np.ndarray = truth) -> None:
            found.setdefault(model, []).append(mean_dice(dice_per_organ(labels, truth, organ_table().indices)))

        add_score("atlas", fuse_scores(score_maps(image, atlas, cache=setting.cache)))
        add_score("unet_3d", predict(image, unet).labels)
        if weights is not None:
            result = segment(Case(image, LoadedResources(atlas, weights, registrations=setting.cache)), "B")
            add_score("medsam2_atlas", result.labels.array)
    return {model: float(np.mean(values)) for model, values in found.items()}


def measure(setting: Setting, strategy: str, atlas: Atlas, unet: UNet, case: ReferenceFiles) -> float:
    """Returns a strategy's measure of a case, 0..1; disagreement is computed with the atlas alone, which needs no minutes."""
    scores = score(setting, atlas, case)
    if strategy == "uncertainty":
        prompts = prompts_from_scores(scores, organ_table(), organ_table().indices, prompting_config().three_boxes)
        values = uncertainty(scores, prompts)
    else:
        values = disagreement(fuse_scores(scores), predict(read_volume(case.image), unet).labels)
    return float(np.mean(list(values.values())))


def run_strategy(setting: Setting, strategy: str) -> list[dict[str, Any]]:
    """Runs all rounds of a strategy; returns the scores after each round."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    work = WorkFolder(setting.start.parent / strategy)
    shutil.copytree(setting.start / "registrations", work.path / "registrations", dirs_exist_ok=True)
    base = Atlas.load(setting.start / "atlas")
    table = ScoreTable(work.path / "learning.sqlite")
    atlas, unet = base, load_unet(setting.start / "unet" / "best.pt")
    labelled = list(setting.cases[:FIRST])
    generator = np.random.default_rng([POPULATION, STRATEGIES.index(strategy)])
    curve = []
    for turn in range(1, setting.rounds + 1):
        free = [case for case in setting.cases if case not in labelled]
        if strategy != "random":
            for case in free:
                value = measure(setting, strategy, atlas, unet, case)
                table.put(case.name, "", {}, Assessment({strategy: value}, {strategy: ""}))
        picked: list[str] = []
        for _ in range(setting.picks):
            names = [case.name for case in free if case.name not in picked]
            choice = choose(strategy, names, table.rows(), generator=generator)
            assert choice is not None, "cases are left"
            picked.append(choice.study)
        labelled += [case for case in free if case.name in picked]
        grow_studies_atlas(work, base, labelled[FIRST:])
        atlas = grown_atlas(work, base) or base
        folder = work.path / f"unet-{turn}"
        unet = train(labelled, folder, unet, setting.steps)
        scores = evaluate(setting, atlas, unet, turn == setting.rounds)
        curve.append({"labelled": len(labelled), "picked": picked, "references": len(atlas.references), **scores})
        shutil.rmtree(folder / "cache")
    return curve


def plot(curves: dict[str, list[dict[str, Any]]], file: Path) -> None:
    """Plots one panel for each model with one line for each strategy."""
    panels = {"atlas": "atlas alone", "unet_3d": "U-Net 3D", "medsam2_atlas": "MedSAM2 (B), first and last round"}
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    for axes, (model, title) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        for n, (strategy, curve) in enumerate(curves.items()):
            points = [(point["labelled"], point[model]) for point in curve if model in point]
            axes.plot(*zip(*points, strict=True), "o-", color=("#2b6cb0", "#c05621", "#718096")[n], label=strategy, ms=4)
        axes.set(title=title, xlabel="cases signed off", ylabel=f"mean Dice on {HELD_OUT} held-out cases")
        low, high = axes.get_ylim()
        spare = max(0.0, MIN_SPAN - (high - low)) / 2  # so that a difference of .01 does not look large
        axes.set_ylim(low - spare, high + spare)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    with replacing(file) as part:
        figure.savefig(part, format="png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds")
    parser.add_argument("--picks", type=int, default=2, help="cases to choose in each round")
    parser.add_argument("--steps", type=int, default=50, help="optimiser steps in each round")
    parser.add_argument("--first-steps", type=int, default=150, help="optimiser steps before the first round")
    parser.add_argument("--plot", type=Path, default=Path("docs/loop.png"), help="PNG file to write the plot to")
    parser.add_argument("--out", type=Path, help="JSON file to write all figures to")
    given = parser.parse_args()
    console, began = Console(), time.perf_counter()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder, console.status("running the loop …"):
        root = Path(folder)
        write_dataset(root / "phantoms", STUDIES + HELD_OUT, POPULATION, spacing=4.0)
        files = find_references(root / "phantoms")
        setting = Setting(files[:STUDIES], files[STUDIES:], root / "start", given.rounds, given.picks, given.steps)
        (root / "start").mkdir()
        atlas = build_atlas(setting.cases[:FIRST])
        atlas.save(root / "start" / "atlas")
        with ProcessPoolExecutor(2, get_context("spawn")) as pool:
            list(pool.map(partial(warm, setting, root / "start" / "atlas"), files[FIRST:]))
        console.print(f"{len(files)} patients registered to an atlas of {FIRST}: {time.perf_counter() - began:.0f} s")
        unet = train(setting.cases[:FIRST], root / "start" / "unet", None, given.first_steps)
        first = {"labelled": FIRST, "picked": [], "references": FIRST, **evaluate(setting, atlas, unet, True)}
        console.print(f"first U-Net trained and scored: {time.perf_counter() - began:.0f} s")
        with ProcessPoolExecutor(2, get_context("spawn")) as pool:
            curves = dict(zip(STRATEGIES, pool.map(partial(run_strategy, setting), STRATEGIES), strict=True))
    curves = {strategy: [first, *curve] for strategy, curve in curves.items()}
    plot(curves, given.plot)
    table = Table(
        "cases signed off", *(f"{s}: {m}" for s in STRATEGIES for m in ("atlas", "U-Net")), title="mean Dice, 6 held-out"
    )
    for n in range(given.rounds + 1):
        cells = [f"{curves[s][n][m]:.3f}" for s in STRATEGIES for m in ("atlas", "unet_3d")]
        table.add_row(str(curves[STRATEGIES[0]][n]["labelled"]), *cells)
    console.print(table)
    ends = {strategy: (curve[0]["medsam2_atlas"], curve[-1]["medsam2_atlas"]) for strategy, curve in curves.items()}
    console.print("MedSAM2 (B), first and last round: " + "; ".join(f"{s} {a:.3f} → {b:.3f}" for s, (a, b) in ends.items()))
    console.print(f"{given.plot} written; {time.perf_counter() - began:.0f} s in total")
    if given.out:
        write_json(curves, given.out)


if __name__ == "__main__":
    main()
