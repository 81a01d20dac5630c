"""Compares rules for the range of slices of the second pass, on cases that `bench/fusion.py --prepare` stored.

The second pass of strategy D starts from the first pass's masks and lengthens each range by 20 %, except for vessels and
adrenal glands. `touching:LOGIT:SHARE` lengthens an end by SHARE of the range only if the mask reaches the end of the first
pass's range and its median logit on that slice is at least LOGIT times the organ's median positive logit.

`python bench/range_ends.py FOLDER --sets 8100 anat4` prints for each rule the mean errors of both ends in mm, the share of the
organ's slices inside the range, and the share of the range's slices without the organ, for fully imaged organs. Rules are
chosen on every second case by name, and reported on the others.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from fusion import Stored
from rich.table import Table

from medsam2_atlas.base.console import console
from medsam2_atlas.evaluation import evaluation_config
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.masks import at_ends, without_specks
from medsam2_atlas.medsam2 import OrganLogits
from medsam2_atlas.segmenters.fusion import fuse_logits

RULES = (
    "none", "fixed:0.1", "fixed:0.05", "touching:0:0.1", "touching:0:0.2", "touching:0.3:0.1", "touching:0.3:0.2",
    "touching:0.6:0.1", "touching:0.6:0.2", "touching:0.6:0.4",
)  # fmt: skip
"""The compared rules; `fixed:0.1` is the published one: 10 % at each end."""


def grown(rule: str, logits: OrganLogits, mask: np.ndarray, shape: tuple[int, ...]) -> tuple[int, int]:
    """Returns the range of slices of the second pass.

    Args:
        rule: the rule's name with its values.
        logits: the logits of the first pass.
        mask: the organ's mask after fusion, `[z, y, x]` bool; not empty.
        shape: the shape (z, y, x) of the volume.
    """
    name, *values = rule.split(":")
    slices = np.flatnonzero(mask.any((1, 2)))
    first, last = int(slices[0]), int(slices[-1])
    if name == "none" or not organ_table()[logits.label].enlarge_z:
        return first, last
    share = float(values[-1])
    more = int(share * (last - first + 1) + 0.5)
    lower = upper = more
    if name == "touching":
        positive = logits.values[logits.values > 0]
        least = float(values[0]) * float(positive.median()) if len(positive) else 0.0
        end = logits.z_min + len(logits.values) - 1

        def strong(z: int) -> bool:
            return float(np.median(logits.plane(z, (shape[1], shape[2])).numpy()[mask[z]])) >= least

        lower = more if first == logits.z_min and strong(first) else 0
        upper = more if last == end and strong(last) else 0
    return max(0, first - lower), min(shape[0] - 1, last + upper)


def errors(case: Stored) -> Iterator[tuple[str, int, float, float, float, float]]:
    """Yields rule, organ, errors of both ends in mm, share of the organ inside, and share of the range without it."""
    truth = without_specks(case.truth, evaluation_config().min_piece_share)
    labels, cut = fuse_logits(case.passes["first"], truth.shape), at_ends(truth)
    step = case.scores.geometry.spacing[2]
    for k, logits in case.passes["first"].items():
        true, mask = np.flatnonzero((truth == k).any((1, 2))), labels == k
        if not len(true) or k in cut or not mask.any():
            continue
        for rule in RULES:
            first, last = grown(rule, logits, mask, truth.shape)
            inside = int(((true >= first) & (true <= last)).sum())
            surplus = 1 - inside / (last - first + 1)
            yield rule, k, abs(first - true[0]) * step, abs(last - true[-1]) * step, inside / len(true), surplus


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder of `bench/fusion.py`")
    parser.add_argument("--sets", nargs="+", default=["8100"], help="the sets of cases")
    given = parser.parse_args()
    files = sorted(file for name in given.sets for file in (given.work / name / "cases").glob("*.npz"))
    halves: dict[str, dict[str, dict[str, np.ndarray]]] = {"chosen on": {}, "held out": {}}
    for number, file in enumerate(files):
        case = Stored.load(file)
        found: dict[str, list[tuple[float, ...]]] = {}
        for rule, organ, *values in errors(case):
            if organ_table()[organ].enlarge_z:
                found.setdefault(rule, []).append(tuple(values))
        half = halves["held out" if number % 2 else "chosen on"]
        half[case.name] = {rule: np.array(values).mean(0) for rule, values in found.items()}
    for name, cases in halves.items():
        table = Table(
            "rule", "|z_min| mm", "|z_max| mm", "organ inside", "range without organ",
            "mean |z| − published (standard error)", title=f"{name}: {', '.join(cases)}",
        )  # fmt: skip
        for rule in RULES:
            means = np.array([case[rule] for case in cases.values()])
            change = np.array([(case[rule][:2] - case["fixed:0.1"][:2]).mean() for case in cases.values()])
            error = change.std(ddof=1) / np.sqrt(len(change)) if len(change) > 1 else float("nan")
            lower, upper, inside, surplus = means.mean(0)
            table.add_row(
                rule, f"{lower:.1f}", f"{upper:.1f}", f"{inside:.3f}", f"{surplus:.3f}", f"{change.mean():+.2f} ({error:.2f})"
            )
        console.print(table)


if __name__ == "__main__":
    main()
