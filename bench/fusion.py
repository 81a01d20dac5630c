"""Measures strategy F, which fuses MedSAM2 with the score maps, against both alone (demo weights).

`--prepare` computes the score maps and the logits of all passes for each case of a set, and stores them in a folder. The report
fuses them in seconds, so that weights and settings can be tried. Cases of a set are left out one subject at a time: the atlas
of a case contains the other subjects only.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from prompts import anatomy, subject_of

from medsam2_atlas.atlas import Atlas, build_atlas, find_references
from medsam2_atlas.atlas.subset import subset
from medsam2_atlas.demo.phantoms import write_dataset
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import Geometry, read_labels, read_volume
from medsam2_atlas.medsam2 import OrganLogits, find_checkpoint, load_weights
from medsam2_atlas.prompting import Prompts, enlarged, prompting_config, prompts_from_labels
from medsam2_atlas.registration import Transform
from medsam2_atlas.scoremaps import ScoreMap, ScoreMaps
from medsam2_atlas.segmenters.base import Options
from medsam2_atlas.segmenters.case import Case, Clock
from medsam2_atlas.segmenters.fusion import fuse_logits
from medsam2_atlas.segmenters.joint_fusion import fuse_jointly
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
            maps = {k: ScoreMap(arrays[f"map.{k}"], tuple(int(v) for v in arrays[f"lower.{k}"]), 1.0) for k in organs}
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


def _again(labels: np.ndarray, shape: tuple[int, ...]) -> Prompts:
    prompts = prompts_from_labels(labels, organ_table().indices, prompting_config().three_boxes, "lost")
    return enlarged(prompts, organ_table(), shape)


def main() -> None:
    """Runs `prepare`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="folder for CTs, atlases and cases; existing ones are used again")
    parser.add_argument("--set", default="8100", help="anatomy, or the population of the phantoms")
    parser.add_argument("--references", type=int, default=8, help="number of phantoms that are references")
    parser.add_argument("--targets", type=int, default=4, help="number of phantoms that are targets")
    parser.add_argument("--only", default="", help="part of the names of the cases to store")
    given = parser.parse_args()
    torch.set_num_threads(1)
    prepare(given.work, given.set, given.references, given.targets, given.only)


if __name__ == "__main__":
    main()
