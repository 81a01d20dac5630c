"""Measures the price of fast mode: Dice to exact mode and to the ground truth, and processor time, on synthetic patients.

Each patient is segmented in both modes, in two passes as by strategy D: the first prompted by boxes from the ground truth that
are shifted by 6 mm, the second by the masks of the first. Each mode uses its own first pass. The settings of fast mode were
chosen on the population 6100. Report the price on other patients, as those of the default population.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from medsam2_atlas.base.choices import Mode
from medsam2_atlas.base.files import write_json
from medsam2_atlas.demo.phantoms import write_dataset
from medsam2_atlas.evaluation import dice_per_organ
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import Volume, read_labels, read_volume
from medsam2_atlas.medsam2 import MedSAM2Volume, Weights, find_checkpoint, load_weights, medsam2_config
from medsam2_atlas.prompting import Jitter, Prompts, enlarged, jittered, prompting_config, prompts_from_labels, unmoved
from medsam2_atlas.segmenters.fusion import fuse_logits

_CHOSEN_ON = 6100
_JITTER = Jitter("shift", 6)


@dataclass(frozen=True)
class Result:
    """A patient in one mode.

    Attributes:
        labels: organ numbers `[z, y, x]`.
        seconds: processor time, in seconds.
        repeated: number of organs of the second pass.
    """

    labels: np.ndarray
    seconds: float
    repeated: int


def segment(weights: Weights, image: Volume, truth: Volume, mode: Mode) -> Result:
    """Segments a patient in two passes."""
    table, shape, fractions = organ_table(), image.array.shape, prompting_config().three_boxes
    organs = list(table.indices)
    began = time.process_time()
    volume = MedSAM2Volume(weights, image.array, mode=mode)
    first = jittered(prompts_from_labels(truth.array, organs, fractions, "absent"), _JITTER, image.geometry, image.digest)
    logits = volume.segment(first.prompts)
    prompts: Prompts = prompts_from_labels(fuse_logits(logits, shape), organs, fractions, "lost")
    same = unmoved(first, prompts, medsam2_config().fast_min_overlap) if mode == "fast" else frozenset()
    again = [p for p in enlarged(prompts, table, shape).prompts if p.label not in same]
    found = volume.segment(again) | {k: logits[k] for k in same}
    return Result(fuse_logits(found, shape), time.process_time() - began, len(again))


def main() -> None:
    """Prints a row for each organ and writes the figures if a file is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder for the patients; existing ones are used again")
    parser.add_argument("--population", type=int, default=7200, help=f"seed of the patients (chosen on: {_CHOSEN_ON})")
    parser.add_argument("--patients", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = options.folder / str(options.population)
    if not folder.exists():
        write_dataset(folder, options.patients, options.population, spacing=3.0, workers=1)
    weights, table = load_weights(find_checkpoint()), organ_table()
    to_exact, to_truth, exact_to_truth = ({k: [] for k in table.indices} for _ in range(3))  # type: ignore[var-annotated]
    seconds, repeated = {"exact": 0.0, "fast": 0.0}, 0
    for file in sorted((folder / "images").glob("*.nii.gz"))[: options.patients]:
        image = read_volume(file)
        truth = read_labels(folder / "labels" / file.name, image)
        results = {mode: segment(weights, image, truth, mode) for mode in ("exact", "fast")}
        for mode, result in results.items():
            seconds[mode] += result.seconds
        repeated += results["fast"].repeated
        maps = {mode: image.with_array(result.labels) for mode, result in results.items()}
        pairs = (
            (to_exact, maps["fast"], maps["exact"]),
            (to_truth, maps["fast"], truth),
            (exact_to_truth, maps["exact"], truth),
        )
        for found, one, other in pairs:
            for k, value in _dice(one, other).items():
                found[k].append(value)
        mean = np.mean(list(_dice(maps["fast"], maps["exact"]).values()))
        times = ", ".join(f"{mode} {result.seconds:.1f} s" for mode, result in results.items())
        print(f"{file.name}: Dice to exact {mean:.3f}; {times}", flush=True)
    print(f"\n{'organ':22s} to exact  lowest  fast to truth  exact to truth")
    for k in table.indices:
        if to_exact[k]:
            row = (np.mean(to_exact[k]), min(to_exact[k]), np.mean(to_truth[k]), np.mean(exact_to_truth[k]))
            print("{:22s} {:8.3f} {:7.3f} {:14.3f} {:15.3f}".format(table[k].name, *row))
    means = [float(np.mean([np.mean(v) for v in found.values() if v])) for found in (to_exact, to_truth, exact_to_truth)]
    print("{:22s} {:8.3f} {:7s} {:14.3f} {:15.3f}".format("mean", means[0], "", *means[1:]))
    print(f"processor time: exact {seconds['exact']:.0f} s, fast {seconds['fast']:.0f} s; organs repeated: {repeated}")
    if options.json:
        by_organ = {table[k].name: v for k, v in to_exact.items()}
        write_json(options.json, {"to_exact": by_organ, "means": means, "seconds": seconds, "repeated": repeated})


def _dice(one: Volume, other: Volume) -> dict[int, float]:
    """Returns the Dice of the organs that one of two label maps contains."""
    return {k: v for k, v in dice_per_organ(one.array, other.array, list(organ_table().indices)).items() if v is not None}


if __name__ == "__main__":
    main()
