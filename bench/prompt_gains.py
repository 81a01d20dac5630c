"""Compares methods and rules of prompts with one of them, on rows of `bench/prompts.py --out`.

`python bench/prompt_gains.py ROWS.json... --against ours` prints, for each other method or rule, the mean difference over
targets of the means over organs, with its standard error, for all targets and for the two halves of the subjects: settings are
chosen on the first half, every second subject by name, and reported on the second. Targets of one subject count as one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from prompt_sets import subject_of
from rich.table import Table

from medsam2_atlas.base.console import console

Row = dict[str, Any]
WORST = ("right_adrenal_gland", "left_adrenal_gland", "duodenum", "esophagus")
"""The organs with the worst boxes."""
FIGURES: dict[str, tuple[Callable[[Row], float | None], str]] = {
    "Dice": (lambda r: r["dice"], ".4f"),
    "box IoU": (lambda r: float(np.mean(r["iou"])) if r["iou"] else 0.0, ".4f"),
    "centre mm": (lambda r: r["centre"], ".2f"),
    "|z_min|, |z_max| mm": (lambda r: None if r["centre"] is None else (abs(r["z_min"]) + abs(r["z_max"])) / 2, ".2f"),
    "boxes with the organ": (lambda r: float(np.mean(r["contains"])) if r["contains"] else 0.0, ".3f"),
    "usable": (lambda r: float(r["usable"]), ".4f"),
}
"""The compared figures of a row (None without a prompt), and how their differences are printed."""


def label_of(row: Row) -> str:
    """Returns the name of a row's method, and of its rule if that is not the published one."""
    rule = row.get("rule", "published")
    return row["method"] if rule == "published" else f"{row['method']} {rule}"


def halves(rows: Iterable[Row]) -> tuple[set[str], set[str]]:
    """Returns the subjects on which settings are chosen, and the others: every second one by name."""
    subjects = sorted({subject_of(row["target"]) for row in rows})
    return set(subjects[::2]), set(subjects[1::2])


def differences(rows: list[Row], base: str, other: str, figure: Callable[[Row], float | None]) -> dict[str, float]:
    """Returns a figure's mean difference between two methods by subject, over organs that have it in both."""
    values: dict[str, dict[tuple[str, str, int, str], float]] = {base: {}, other: {}}
    for row in rows:
        if (name := label_of(row)) in values and (value := figure(row)) is not None:
            values[name][row["set"], row["target"], row["copy"], row["organ"]] = value
    by_subject: dict[str, list[float]] = {}
    for key in values[base].keys() & values[other].keys():
        by_subject.setdefault(subject_of(key[1]), []).append(values[other][key] - values[base][key])
    return {subject: float(np.mean(gains)) for subject, gains in by_subject.items()}


def cell(gains: list[float], form: str) -> str:
    """Returns a mean with its standard error, in bold if it exceeds twice that error."""
    if len(gains) < 2:
        return "-"
    mean, error = float(np.mean(gains)), float(np.std(gains, ddof=1) / np.sqrt(len(gains)))
    text = f"{mean:+{form}} ± {error:{form}}"
    return f"[bold]{text}[/bold]" if abs(mean) > 2 * error else text


def show(rows: list[Row], base: str, title: str) -> None:
    """Prints a table of all differences from a method."""
    first, second = halves(rows)
    table = Table("method or rule", "subjects", *FIGURES, title=f"{title}: difference from {base}")
    for other in dict.fromkeys(map(label_of, rows)):
        if other == base:
            continue
        found = [(differences(rows, base, other, figure), form) for figure, form in FIGURES.values()]
        for name, subjects in (("all", first | second), ("chosen on", first), ("held out", second)):
            table.add_row(
                other, name, *(cell([g for s, g in by_subject.items() if s in subjects], form) for by_subject, form in found)
            )
    console.print(table)


def main() -> None:
    """Prints the tables for all organs and for the worst organs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path, nargs="+", help="files of `bench/prompts.py --out`")
    parser.add_argument("--against", default="ours", help="the method or rule to compare with")
    given = parser.parse_args()
    rows = [row for file in given.rows for row in json.loads(file.read_text())["rows"]]
    console.print(f"settings are chosen on {', '.join(sorted(halves(rows)[0]))}")
    show(rows, given.against, "all organs")
    show([row for row in rows if row["organ"] in WORST], given.against, ", ".join(WORST))


if __name__ == "__main__":
    main()
