"""Measures strategy F, which fuses MedSAM2 with the score maps, against both alone (demo weights).

`--prepare` computes the score maps and the logits of all passes for each case of a set, and stores them in a folder. The report
fuses them in seconds, so that weights and settings can be tried. Cases of a set are left out one subject at a time: the atlas
of a case contains the other subjects only.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from prompt_sets import anatomy, subject_of
from rich.table import Table

from medsam2_atlas.atlas import Atlas, build_atlas, find_references
from medsam2_atlas.atlas.subset import subset
from medsam2_atlas.base.console import console
from medsam2_atlas.base.files import write_json
from medsam2_atlas.demo.phantoms import write_dataset
from medsam2_atlas.imaging.dice import dice_per_organ
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import Geometry, read_labels, read_volume
from medsam2_atlas.medsam2 import OrganLogits, find_checkpoint, load_weights
from medsam2_atlas.prompting import Prompts, confidence, confidence_config, enlarged, prompting_config, prompts_from_labels
from medsam2_atlas.registration import Transform
from medsam2_atlas.scoremaps import ScoreMap, ScoreMaps
from medsam2_atlas.segmenters.base import Options
from medsam2_atlas.segmenters.case import Case, Clock
from medsam2_atlas.segmenters.fusion import fuse_logits, fuse_scores
from medsam2_atlas.segmenters.joint_config import joint_fusion_config
from medsam2_atlas.segmenters.joint_fusion import Fused, fuse_jointly
from medsam2_atlas.segmenters.joint_learning import learn_weights, sample_voxels
from medsam2_atlas.segmenters.resources import LoadedResources

PASSES = ("first", "second", "fused")
"""The stored passes: the first, the second of D, and a second one prompted by the fused masks of the first."""


@dataclass(frozen=True)
class Stored:
    """A case of a set.

    Attributes:
        name: its name.
        truth: organ numbers `[z, y, x]`.
        scores: its score maps, voted by the other subjects.
        passes: the logits by organ number, by name of the pass.
    """

    name: str
    truth: np.ndarray
    scores: ScoreMaps
    passes: dict[str, dict[int, OrganLogits]]

    def save(self, file: Path) -> None:
        """Writes the case to an `.npz` file."""
        geometry = self.scores.geometry
        about = {"name": self.name, "size": geometry.size, "spacing": geometry.spacing, "stride": self.scores.stride}
        about |= {"thresholds": {str(k): v for k, v in self.scores.thresholds.items()}}
        about |= {"evidence": {str(k): dict(score.evidence) for k, score in self.scores.maps.items()}}
        arrays: dict[str, np.ndarray] = {"truth": self.truth, "about": np.array(json.dumps(about))}
        for k, score in self.scores.maps.items():
            arrays[f"map.{k}"], arrays[f"lower.{k}"] = score.values, np.array(score.lower)
        for name, logits in self.passes.items():
            for k, each in logits.items():
                arrays[f"{name}.{k}"] = each.values.numpy().astype(np.float16)
                arrays[f"{name}.{k}.z"] = np.array(each.z_min)
        part = file.with_suffix(".part.npz")
        np.savez_compressed(part, **arrays)  # type: ignore[arg-type]
        part.replace(file)

    @classmethod
    def load(cls, file: Path) -> Stored:
        """Reads a case that `save` wrote."""
        with np.load(file, allow_pickle=False) as arrays:
            about = json.loads(str(arrays["about"]))
            geometry = Geometry(tuple(about["size"]), tuple(about["spacing"]), (0.0, 0.0, 0.0))
            organs = [int(name.split(".")[1]) for name in arrays.files if name.startswith("map.")]
            evidence = about.get("evidence", {})
            maps = {
                k: ScoreMap(arrays[f"map.{k}"], tuple(map(int, arrays[f"lower.{k}"])), 1.0, evidence.get(str(k), {}))
                for k in organs
            }
            passes: dict[str, dict[int, OrganLogits]] = {}
            for name in arrays.files:
                kind, *rest = name.split(".")
                if kind in PASSES and len(rest) == 1:
                    values = torch.from_numpy(arrays[name].astype(np.float32))
                    passes.setdefault(kind, {})[int(rest[0])] = OrganLogits(int(rest[0]), int(arrays[f"{name}.z"]), values)
            thresholds = {int(k): v for k, v in about["thresholds"].items()}
            scores = ScoreMaps(maps, geometry, about["stride"], Transform(), Transform(), thresholds)
            return cls(about["name"], arrays["truth"], scores, passes)


def prepare(work: Path, kind: str, references: int, targets: int, only: str) -> None:
    """Writes the CTs of a set and stores each case; existing files are kept.

    Args:
        work: folder for CTs, atlas and cases.
        kind: `anatomy`, or the population of the phantoms.
        references: number of phantoms that are references; the others are targets.
        targets: number of phantoms that are targets.
        only: a part of the names of the cases to store; all if empty.
    """
    folder = work / kind
    if not (folder / "images").is_dir():
        if kind == "anatomy":
            anatomy(folder, 2)
        else:
            write_dataset(folder, references + targets, int(kind), spacing=3.0, workers=1)
    files = find_references(folder)
    chosen = files if kind == "anatomy" else files[:references]
    atlas_folder = folder / "atlas"
    if not (atlas_folder / "atlas.json").is_file():
        build_atlas(chosen).save(atlas_folder)
    atlas, weights = Atlas.load(atlas_folder), load_weights(find_checkpoint())
    (folder / "cases").mkdir(exist_ok=True)
    for each in files:
        stored = folder / "cases" / f"{each.name}.npz"
        if stored.is_file() or only not in each.name:
            continue
        others = [r.name for r in atlas.references if subject_of(r.name) != subject_of(each.name)]
        own = atlas if len(others) == len(atlas.references) else subset(atlas, others)
        image = read_volume(each.image)
        case, clock = Case(image, LoadedResources(own, weights), Options()), Clock()
        scores = case.scores(clock)
        first = case.logits(case.first_prompts(prompting_config().three_boxes, clock).prompts, clock)
        passes = {"first": first}
        if kind == "anatomy" or own is atlas:  # weights are learnt on first passes
            labels = {"second": fuse_logits(first, image.array.shape), "fused": fuse_jointly(first, scores).labels}
            passes |= {name: case.logits(_again(found, image.array.shape).prompts, clock) for name, found in labels.items()}
        Stored(each.name, read_labels(each.label, image).array, scores, passes).save(stored)
        print(each.name, {k: round(v, 1) for k, v in clock.seconds.items()}, flush=True)


def report(work: Path, kind: str, chosen_on: list[str], also: list[str], out: Path | None) -> None:
    """Prints the Dice of all segmenters on the stored cases of a set that have all passes.

    The weights of a case are learnt on the first passes of the other subjects. Its second pass was prompted by the masks of the
    first pass that were fused with all weights 1.

    Args:
        work: folder of the cases.
        kind: name of the set.
        chosen_on: names of cases on which settings were chosen; weights are learnt on them, but they are not reported.
        also: names of further sets on which the weights are learnt.
        out: JSON file to write all figures to, and the rows for `bench/fusion_confidence.py`; None for none.
    """
    falling = joint_fusion_config().model_copy(update={"agreement_power": 1.0})
    stored, *more = ([Stored.load(file) for file in sorted((work / name / "cases").glob("*.npz"))] for name in (kind, *also))
    config, table = joint_fusion_config(), organ_table()
    samples = {
        case.name: sample_voxels(case.passes["first"], case.scores, case.truth, config, np.random.default_rng(number))
        for number, case in enumerate([*stored, *(case for others in more for case in others)])
    }
    rows: dict[str, dict[str, dict[int, float]]] = {}
    confidences: list[dict[str, Any]] = []
    for case in (case for case in stored if case.name not in chosen_on):
        others = [sample for name, sample in samples.items() if subject_of(name) != subject_of(case.name)]
        learnt, shape, passes = learn_weights(others, config), case.truth.shape, case.passes
        organs = [k for k in table.indices if (case.truth == k).any()]
        began = time.process_time()
        fused = fuse_jointly(passes.get("fused", passes["first"]), case.scores, learnt)
        took = time.process_time() - began
        labels = {"F": fused.labels}
        confidences += _confidence_rows(case, fused, dice_per_organ(fused.labels, case.truth, organs))
        if len(passes) < len(PASSES):
            continue
        labels |= {
            "F, power 1": fuse_jointly(passes["fused"], case.scores, learnt, falling).labels,
            "F, weights 1": fuse_jointly(passes["fused"], case.scores).labels,
            "F, first pass only": fuse_jointly(passes["first"], case.scores, learnt).labels,
            "F, boxes of D": fuse_jointly(passes["second"], case.scores, learnt).labels,
            "atlas": fuse_scores(case.scores),
            "B": fuse_logits(passes["first"], shape),
            "D": fuse_logits(passes["second"], shape),
        }
        for name, found in labels.items():
            rows.setdefault(name, {})[case.name] = dice_per_organ(found, case.truth, organs)
        print(f"{case.name}: {len(others)} other cases, joint fusion {took:.1f} s", flush=True)
    names = ("atlas", "B", "D", "F", "F, power 1", "F, weights 1", "F, first pass only", "F, boxes of D")
    shown = Table("Dice", *names, title=f"{kind}, {len(rows['F'])} cases")
    for organ in table.organs:
        values = [[dice[organ.index] for dice in rows[name].values() if organ.index in dice] for name in names]
        shown.add_row(organ.display, *(f"{np.mean(v):.3f}" if v else "" for v in values))
    means = {name: np.array([np.mean(list(dice.values())) for dice in rows[name].values()]) for name in names}
    shown.add_row("mean over cases", *(f"{means[name].mean():.3f}" for name in names))
    shown.add_row("deviation between cases", *(f"{means[name].std(ddof=1):.3f}" for name in names))
    better = np.maximum(means["atlas"].mean(), means["D"].mean())
    gain = [means[name].mean() - better for name in names]
    each = means["F"] - np.maximum(means["atlas"], means["D"])
    console.print(f"gain of F per case: {each.mean():.3f}, deviation {each.std(ddof=1):.3f}, lowest {each.min():.3f}")
    shown.add_row("gain over the better of atlas and D", *(f"{value:+.3f}" for value in gain))
    console.print(shown)
    if out is not None:
        named = {name: {c: {table[k].name: v for k, v in d.items()} for c, d in r.items()} for name, r in rows.items()}
        write_json({"dice": named, "confidence": confidences}, out)


def _confidence_rows(case: Stored, fused: Fused, dice: dict[int, float]) -> list[dict[str, Any]]:
    """Returns the rows for `bench/fusion_confidence.py`: one for each organ with a prompt."""
    table, config, found = organ_table(), confidence_config(), []
    for k in dice.keys() & case.passes["first"].keys():
        prompt = confidence(case.scores.maps[k].evidence, config)
        row = {"case": case.name, "organ": table[k].name, "prompt": prompt, "disagreement": fused.disagreement.get(k, 1.0)}
        found.append(row | {"dice": dice[k]})
    return found


def _again(labels: np.ndarray, shape: tuple[int, ...]) -> Prompts:
    prompts = prompts_from_labels(labels, organ_table().indices, prompting_config().three_boxes, "lost")
    return enlarged(prompts, organ_table(), shape)


def main() -> None:
    """Stores the cases of a set, or prints the report on them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="folder for CTs, atlases and cases; existing ones are used again")
    parser.add_argument("--set", default="8100", help="anatomy, or the population of the phantoms")
    parser.add_argument("--references", type=int, default=8, help="number of phantoms that are references")
    parser.add_argument("--targets", type=int, default=4, help="number of phantoms that are targets")
    parser.add_argument("--prepare", action="store_true", help="store the cases; without it, report on them")
    parser.add_argument(
        "--chosen-on", default="", help="comma-separated names of cases that are not reported: settings were chosen on them"
    )
    parser.add_argument("--also", nargs="*", default=[], help="further sets on which the weights are learnt")
    parser.add_argument("--out", type=Path, help="JSON file for the figures of the report and rows of confidences")
    parser.add_argument("--only", default="", help="part of the names of the cases to store")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.prepare:
        prepare(given.work, given.set, given.references, given.targets, given.only)
    else:
        report(given.work, given.set, given.chosen_on.split(","), given.also, given.out)


if __name__ == "__main__":
    main()
