"""Prepares a data set: writes the annotated CTs of a download into the folders of references and targets.

A case is finished once its image and its label map are written and `dataset.json` names it. Each file is replaced in one step,
and the record is written after each case, so that an interrupted command continues with the next case.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from medsam2_atlas.base.errors import InputError, StorageError, problem_of
from medsam2_atlas.base.progress import Progress, silent
from medsam2_atlas.base.version import package_version
from medsam2_atlas.datasets.finding import CaseFiles, find_cases
from medsam2_atlas.datasets.layout import Layout
from medsam2_atlas.datasets.output import are_there, check_places, opened, remove_case
from medsam2_atlas.datasets.reading import ReadCase, Sources, read_case
from medsam2_atlas.datasets.record import RECORD, CaseRecord, Dataset
from medsam2_atlas.datasets.roles import Choice, Role, plan_roles
from medsam2_atlas.imaging.hounsfield import CHECK, HuRule
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import write_volume


@dataclass(frozen=True)
class PrepareOptions:
    """The options of `prepare`.

    Attributes:
        choice: which cases become references and targets.
        strict: whether the first bad case is an error; otherwise it is left out.
        hu: how the values of the CTs become HU.
    """

    choice: Choice = field(default_factory=Choice)
    strict: bool = False
    hu: HuRule = CHECK


@dataclass(frozen=True)
class Prepared:
    """The result of `prepare`.

    Attributes:
        dataset: the record of the prepared data set.
        written: the number of cases that were written; the others were finished already.
        unlabelled: the number of CTs of the download without a label map.
        excluded: the number of cases of the download that are not CTs.
    """

    dataset: Dataset
    written: int
    unlabelled: int
    excluded: int


@dataclass
class _Run:
    """The state of a run.

    Attributes:
        source: the folder of the download.
        out: the folder to write.
        layout: the layout of the download.
        hu: how the values of the CTs become HU.
        known: reusable cases of an earlier run, by role and name.
        done: finished cases of this run, by role and name.
        names: the name of the case by the hash of its image's voxels.
        written: the number of cases that were written.
    """

    source: Path
    out: Path
    layout: Layout
    hu: HuRule
    known: dict[tuple[Role, str], CaseRecord]
    done: dict[tuple[Role, str], CaseRecord] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    written: int = 0


def prepare(
    name: str, layout: Layout, source: Path, out: Path, options: PrepareOptions | None = None, *, progress: Progress = silent
) -> Prepared:
    """Writes the annotated CTs of a download into `out/references` and `out/targets`, and their record into `dataset.json`.

    Images and label maps get the LPS orientation by permuting and reversing axes; voxels are not resampled.

    Args:
        name: the name of the layout.
        layout: the layout of the download.
        source: the folder of the download; nothing in it is changed.
        out: the folder to write. A data set that was prepared there with the same layout is continued.
        options: the options; their defaults if None.
        progress: called with the stage and the fraction completed.

    Raises:
        InputError: the folders cannot be used, cases are missing, no case can be used, or `options.strict` is set and a case
            cannot be used.
        StorageError: `out` contains other files.
    """
    options = options or PrepareOptions()
    check_places(source, out)
    listing = find_cases(layout, source)
    plan = plan_roles(layout, listing, options.choice, source)
    if options.strict and plan.left_out and not options.choice.partial:
        case, reason = sorted(plan.left_out.items())[0]
        raise InputError(source / case, reason, "Correct the data set, or leave the case out without --strict.")
    base = Dataset(
        version=package_version(),
        layout=name,
        title=layout.title,
        licence=layout.licence,
        layout_sha256=layout.sha256,
        hu=str(options.hu),
        annotated=tuple(organ_table()[k].name for k in layout.annotated),
        cases=(),
        complete=False,
    )
    run = _Run(source, out, layout, options.hu, opened(out, plan, base))
    left_out = {case: _relative(reason, source) for case, reason in plan.left_out.items()}
    _recorded(base, run.known, left_out).write(out)  # from now on, files in the folder are known to be this program's
    for number, (role, files) in enumerate(plan.cases):
        key = (role, files.name)
        try:
            record, found = _examined(run, role, files)
        except StorageError:  # no fault of the case
            raise
        except Exception as error:
            if options.strict:
                raise
            left_out[files.name] = _relative(problem_of(error), source)
            remove_case(out, role, files.name)
        else:
            if found is not None:
                _write(out, record, found)
                run.written += 1
            run.done[key] = record
        run.known.pop(key, None)
        _recorded(base, {**run.done, **run.known}, left_out).write(out)
        progress("preparing cases", (number + 1) / len(plan.cases))
    if not run.done:
        first, reason = sorted(left_out.items())[0]
        raise InputError(source, f"has no case that can be used. {first}: {reason}", f"{out / RECORD} lists all reasons.")
    dataset = _recorded(base, run.done, left_out).model_copy(update={"complete": True})
    dataset.write(out)
    return Prepared(dataset, run.written, len(listing.unlabelled), len(listing.excluded))


def _recorded(base: Dataset, cases: dict[tuple[Role, str], CaseRecord], left_out: dict[str, str]) -> Dataset:
    ordered = tuple(cases[key] for key in sorted(cases))
    return base.model_copy(update={"cases": ordered, "left_out": dict(sorted(left_out.items()))})


def _examined(run: _Run, role: Role, case: CaseFiles) -> tuple[CaseRecord, ReadCase | None]:
    """Returns the record of a case and what is to be written for it; None if its files are there already.

    Raises:
        InputError: the case cannot be used, or its image is that of another case.
        OSError: a file cannot be read.
    """
    sources = Sources.of(case, run.source)
    record, found = run.known.get((role, case.name)), None
    if record is None or (record.image, record.labels) != (sources.image, sources.labels) or not are_there(run.out, record):
        found = read_case(case, run.layout, run.hu)
        sources.check(case)
        record = CaseRecord(
            name=case.name,
            role=role,
            organs=tuple(organ_table()[k].name for k in found.organs),
            image=sources.image,
            labels=sources.labels,
            voxels=found.voxels,
            hu_offset=found.hu_offset,
            remarks=tuple(_relative(remark, run.source) for remark in found.remarks),
        )
    other = run.names.setdefault(record.voxels, case.name)
    if other != case.name:
        raise InputError(case.image, f"is the same image as that of {other}.", "Keep one of the two cases.")
    return record, found


def _write(out: Path, record: CaseRecord, found: ReadCase) -> None:
    """Writes the image and the label map of a case.

    Raises:
        OSError: a file cannot be written.
    """
    for volume, path in zip((found.image, found.label), record.paths(out), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_volume(volume, path)


def _relative(text: str, source: Path) -> str:
    """Returns a text without the path of the download, because records are shared with others."""
    for folder in (str(source.absolute()), str(source)):
        text = text.replace(folder.rstrip(os.sep) + os.sep, "")
    return text
