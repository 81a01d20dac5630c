"""Conducts an experiment from start to end: finds cases, prepares smaller atlases, runs what is missing, writes the report."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace

from medsam2_atlas.atlas import Atlas
from medsam2_atlas.base.errors import InputError, MedSAM2AtlasError, listed, problem_of
from medsam2_atlas.base.mapping import Map
from medsam2_atlas.base.progress import Progress, silent
from medsam2_atlas.datasets import read_dataset
from medsam2_atlas.experiment.cases import EvaluationCase, find_cases, independent_cases, same_names
from medsam2_atlas.experiment.choice import Choice
from medsam2_atlas.experiment.plan import smaller_atlases
from medsam2_atlas.experiment.record import Record
from medsam2_atlas.experiment.results import EmptyRule, Results
from medsam2_atlas.experiment.run import Session, open_tasks, run_tasks
from medsam2_atlas.experiment.setting import Setting, locked
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.segmenters.registry import family_of
from medsam2_atlas.studies.models import Models
from medsam2_atlas.unet import training_cases_of

log = logging.getLogger(__name__)


def conduct(setting: Setting, choice: Choice, progress: Progress = silent, mapped: Map | None = None) -> Results:
    """Runs every variant on every case without a valid record, and writes tables, tests, plots and the report.

    Args:
        setting: what is run. Its field `organs` may be empty: then the data set's description decides, or else all organs are
            scored. `atlases` is filled here.
        choice: further choices.
        progress: called with the fraction completed.
        mapped: runs the cases on a cluster, whose workers must see the same disk; None: processes of this machine.

    Returns:
        The results that the report shows.

    Raises:
        InputError: if no case can be used; if `choice.strict`, also if a case or variant fails.
        AtlasError: if a segmenter needs an atlas and there is none.
        StorageError: if another command writes to the same folder.
    """
    from medsam2_atlas.experiment.assemble import write_outputs

    problems: dict[str, str] = {}
    with locked(setting.out):
        if not setting.organs:
            dataset = read_dataset(choice.labels)
            annotated = tuple(organ_table().indices) if dataset is None else dataset.annotated_organs
            setting = replace(setting, organs=annotated)
        models = setting.models()
        prompted = any(family_of(variant.segmenter).role == "prompted" for variant in setting.variants)
        atlas = models.atlas() if prompted else None  # reports a missing atlas before all cases are read
        cases = find_cases(choice.images, choice.labels, None if choice.strict else problems, progress)
        cases, setting, warnings = _prepared(cases, setting, choice, problems, models, atlas)
        if not cases:
            raise InputError(
                choice.images,
                f"contains no case that can be used. {listed(problems)}".rstrip(),
                "Add annotated CTs that are not references of the atlas.",
            )
        session = Session(setting)
        tasks = open_tasks(cases, session, None if choice.strict else problems)
        outcome = run_tasks(tasks, session, choice.jobs, strict=choice.strict, progress=progress, mapped=mapped)
        problems |= outcome.problems
        results = _results(cases, session, problems, choice.empty)
        if not results.records:
            remedy = "Correct these problems and run the command again."
            raise InputError(setting.out, f"gets no results: {listed(problems)}", remedy)
        write_outputs(results, cases, session, choice, warnings)
    return results


def _prepared(
    cases: list[EvaluationCase],
    setting: Setting,
    choice: Choice,
    problems: dict[str, str],
    models: Models,
    atlas: Atlas | None,
) -> tuple[list[EvaluationCase], Setting, list[str]]:
    """Leaves out references of the atlas, writes smaller atlases, and collects warnings about names."""
    warnings: list[str] = []
    if atlas is not None:
        cases = independent_cases(cases, atlas, None if choice.strict else problems)
        warnings += same_names(cases, [r.name for r in atlas.references], "a reference of the atlas")
        if choice.counts:
            folders = smaller_atlases(atlas, choice.counts, setting.out / "atlases", choice.seed)
            setting = replace(setting, atlases=folders)
    for name in dict.fromkeys(variant.segmenter for variant in setting.variants):
        try:
            weights = models.segmenter(name).weights_file()
        except MedSAM2AtlasError:  # reported when the variant is checked
            continue
        trained_on = [] if weights is None else training_cases_of(weights)
        warnings += same_names(cases, trained_on, f"a training case of {name}")
    return cases, setting, warnings


def _results(cases: Sequence[EvaluationCase], session: Session, problems: dict[str, str], empty: EmptyRule) -> Results:
    """Reads the valid records of all cases, in the order of the variants."""
    records = tuple(_records(cases, session, problems))
    shown = {name: _without_home(problem) for name, problem in sorted(problems.items())}
    return Results(records, session.setting.organs, shown, empty)


def _without_home(text: str) -> str:
    """Returns a text for the report, which people pass on: `~` replaces the user's home folder, whose name is a person's."""
    home = os.path.expanduser("~")  # noqa: PTH111 Path.home raises an error without a home
    return text.replace(f"{home}/", "~/") if len(home) > 1 else text


def _records(cases: Sequence[EvaluationCase], session: Session, problems: dict[str, str]) -> Iterable[Record]:
    for variant in session.setting.variants:
        if variant in session.unusable:
            continue
        for case in cases:
            try:
                record = session.valid_record(case, variant)
            except (MedSAM2AtlasError, OSError) as error:
                problems.setdefault(f"{case.name}, {variant.name}", problem_of(error))
                continue
            if record is not None:
                yield record
            else:
                problems.setdefault(
                    f"{case.name}, {variant.name}", "its record was removed or changed while the evaluation ran."
                )
