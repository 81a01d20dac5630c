"""Fits the confidence of strategy F on rows of `bench/fusion.py --out` (`python bench/fusion_confidence.py ROWS.json...`).

Fits a logistic regression of "the organ's Dice is at least 0.85" on the confidence of its prompt and the disagreement of both
sources, and prints the values for `configs/joint_fusion.yaml`. It also prints the quality of the fit with one patient left out
at a time, and of the stored values on the rows of `--test`: area under the ROC curve, expected calibration error in five bins,
and the share of good organs in each bin.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from calibration import fitted, left_out, show
from prompt_sets import subject_of

from medsam2_atlas.base.console import console
from medsam2_atlas.segmenters.joint_confidence import joint_confidence
from medsam2_atlas.segmenters.joint_config import joint_fusion_config

GOOD = 0.85


def main() -> None:
    """Prints the fit, and its quality."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=Path, nargs="+", help="JSON files of bench/fusion.py to fit on")
    parser.add_argument("--test", type=Path, nargs="*", default=[], help="JSON files on which the stored values are measured")
    given = parser.parse_args()
    rows = read(given.rows)
    features, good = features_of(rows), good_of(rows)
    patients = np.array([subject_of(row["case"]) for row in rows])
    for name, columns in (("prompt", [0]), ("disagreement", [1]), ("both", [0, 1])):
        expected = left_out(features[:, columns], good, patients)
        show(f"{name}, each of {len(set(patients))} patients left out in turn", expected, good)
    bias, (prompt, differ) = fitted(features, good)
    console.print(f"bias: {bias:.3f}, prompt: {prompt:.3f}, disagreement: {differ:.3f}")
    if given.test:
        others, config = read(given.test), joint_fusion_config().confidence
        stored = [joint_confidence(row["prompt"], row["disagreement"], config) for row in others]
        show("stored values, test rows", np.array(stored, float), good_of(others))
        show("confidence of the prompt, test rows", np.array([row["prompt"] for row in others]), good_of(others))


def read(files: list[Path]) -> list[dict[str, Any]]:
    """Returns the rows of files whose prompts have a confidence."""
    rows = [row for file in files for row in json.loads(file.read_text(encoding="utf-8"))["confidence"]]
    return [row for row in rows if row["prompt"] is not None]


def features_of(rows: list[dict[str, Any]]) -> np.ndarray:
    """Returns the log odds of the prompts' confidences, and the disagreements, `[row, 2]`."""
    prompts = np.clip([row["prompt"] for row in rows], 0.001, 0.999)
    return np.stack([np.log(prompts / (1 - prompts)), [row["disagreement"] for row in rows]], 1)


def good_of(rows: list[dict[str, Any]]) -> np.ndarray:
    """Returns whether each organ's Dice is at least `GOOD`, bool `[row]`."""
    return np.array([row["dice"] >= GOOD for row in rows])


if __name__ == "__main__":
    main()
