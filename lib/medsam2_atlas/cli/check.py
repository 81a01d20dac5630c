"""`medsam2-atlas check`: reports which CTs and label maps can be used."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from medsam2_atlas.base.console import Table, bars, echo, show
from medsam2_atlas.base.errors import problem_of
from medsam2_atlas.cli.cases import annotated_cases, signed_off_cases
from medsam2_atlas.cli.folders import study_folder
from medsam2_atlas.cli.options import HuOption
from medsam2_atlas.cli.outputs import JSON, check_files

if TYPE_CHECKING:
    from medsam2_atlas.imaging.hounsfield import HuRule
    from medsam2_atlas.imaging.volume import Volume

Case = tuple[str, Path, Path | None]
"""Name, CT file, and label map file (None if there is none)."""


def check_command(
    path: Annotated[
        Path, typer.Argument(help="A CT, a DICOM series, a studies folder, or a folder with images/ and labels/.", exists=True)
    ],
    label: Annotated[Path | None, typer.Option("--label", help="Label map of PATH, if PATH is one CT.", exists=True)] = None,
    hu: HuOption = "check",
    report: Annotated[Path | None, typer.Option("--report", help="JSON file to write the findings to. Default: none.")] = None,
) -> None:
    """Report which CTs and label maps can be used, which defects are corrected when they are read, and which cannot be used.

    The exit status is 1 if a case cannot be used.
    """
    check_files((report, JSON), inputs=(path, label))
    from medsam2_atlas.base.files import write_json
    from medsam2_atlas.imaging.hounsfield import HuRule

    rule, left_out = HuRule.parse(hu), dict[str, str]()
    cases = _cases(path, label, left_out)
    found: list[dict[str, Any]] = []
    with bars() as progress:
        for number, case in enumerate(cases):
            found.append(_findings(case, rule))
            progress("reading", (number + 1) / len(cases))
    found += [{"name": name, "problem": problem} for name, problem in sorted(left_out.items())]
    if report is not None:
        write_json(found, report)
    show(_table(found))
    good = sum("problem" not in case for case in found)
    echo(f"{good} of {len(found)} can be used")
    if good < len(found):
        raise typer.Exit(1)


def _cases(path: Path, label: Path | None, left_out: dict[str, str]) -> list[Case]:
    """Returns the cases of a path; adds the names of unusable cases and the reasons to `left_out`."""
    from medsam2_atlas.storage import unopened_studies

    if not path.is_dir() or label is not None:
        return [(path.name, path, label)]
    if (path / "images").is_dir() and (path / "labels").is_dir():  # a DICOM export may have one folder of that name
        return [(files.name, files.image, files.label) for files in annotated_cases(path, left_out)]
    folder = study_folder(path)
    if not folder.has_images() and not (path / "labels").is_dir():
        return [(path.name, path, None)]
    if not folder.work.path.is_dir():  # opening it as a studies folder would write into it, which a check must not do
        studies, problems = unopened_studies(folder)
        left_out.update(problems)
        return [(study.name, study.image, study.final) for study in studies]
    images, finals = {study.name: study.image for study in folder.studies()}, signed_off_cases(folder, left_out)
    labels = {files.name: files.label for files in finals}
    return [(name, image, labels.get(name)) for name, image in images.items()]


def _findings(case: Case, rule: HuRule) -> dict[str, Any]:
    """Reads a case and returns its grid, HU finding, organs and remarks, or its `problem`."""
    from medsam2_atlas.imaging.hounsfield import read_ct
    from medsam2_atlas.imaging.volume import read_labels

    name, image, label = case
    about: dict[str, Any] = {"name": name, "image": str(image), **({"label": str(label)} if label else {})}
    try:
        volume = read_ct(image, rule)
        about |= {**_grid(volume), "hu": dict(volume.hu or {}), "remarks": list(volume.remarks)}
        if label is not None:
            labels = read_labels(label, volume)
            about |= {"organs": _organs(label, labels), "remarks": [*about["remarks"], *labels.remarks]}
    except Exception as error:  # noqa: BLE001 - one bad case must not stop the check of the others
        about["problem"] = problem_of(error)
    return about


def _grid(volume: Volume) -> dict[str, Any]:
    return {"size": list(volume.file_geometry.size), "spacing_mm": [round(mm, 4) for mm in volume.file_geometry.spacing]}


def _organs(file: Path, labels: Volume) -> list[str]:
    """Returns the organs of a label map.

    Raises:
        InputError: the label map is empty, or contains a number that is not an organ's.
    """
    import numpy as np

    from medsam2_atlas.imaging.labels import organ_table

    table, found = organ_table(), np.unique(labels.array).tolist()
    table.check(file, found)
    return [table[k].name for k in found if k]


def _table(found: list[dict[str, Any]]) -> Table:
    table = Table("case", "grid", "values", "organs", "remarks and problems")
    for case in found:
        remarks = [f"[yellow]{escape(text)}[/]" for text in case.get("remarks", ())]
        if "problem" in case:
            remarks.append(f"[red]{escape(_short_problem(case))}[/]")
        organs = str(len(case["organs"])) if "organs" in case else ""
        table.add_row(escape(case["name"]), *_columns(case), organs, "\n".join(remarks))
    return table


def _short_problem(case: dict[str, Any]) -> str:
    """Returns the problem of a case with file names instead of full paths; the report contains the full paths."""
    problem: str = case["problem"]
    for key in ("image", "label"):
        if key in case:
            problem = problem.replace(str(Path(case[key]).absolute()), Path(case[key]).name)
            problem = problem.replace(case[key], Path(case[key]).name)
    return problem


def _columns(case: dict[str, Any]) -> Iterator[str]:
    """Yields the grid and the HU finding of a case as texts; empty texts if unknown."""
    if "size" not in case:
        yield from ("", "")
        return
    size, spacing = (" × ".join(f"{n:.4g}" for n in case[key]) for key in ("size", "spacing_mm"))
    yield f"{size}, {spacing} mm"
    offset = case["hu"].get("offset", 0)
    yield "HU" if not offset else f"HU after {offset:+g}"
