"""Writes the files of an experiment: CSV, tables, tests, plots and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from medsam2_atlas.base.errors import MedSAM2AtlasError
from medsam2_atlas.base.files import write_json
from medsam2_atlas.evaluation import published
from medsam2_atlas.experiment.break_even import break_even_panels
from medsam2_atlas.experiment.cases import EvaluationCase
from medsam2_atlas.experiment.choice import Choice
from medsam2_atlas.experiment.made_with import MadeWith, basis, machine
from medsam2_atlas.experiment.reporting.accuracy import TITLES
from medsam2_atlas.experiment.reporting.cost_table import cost_table
from medsam2_atlas.experiment.reporting.csv_files import write_cases, write_costs
from medsam2_atlas.experiment.reporting.curve_plots import Curve, Panel
from medsam2_atlas.experiment.reporting.html_table import html_table
from medsam2_atlas.experiment.reporting.overview import best_variant
from medsam2_atlas.experiment.reporting.page import ReportParts, write_report
from medsam2_atlas.experiment.reporting.pictures import CaseFiles, draw_cases
from medsam2_atlas.experiment.reporting.plots import Plot, accuracy_plots, cost_plots, curve_plots, write_plots
from medsam2_atlas.experiment.reporting.sensitivity import (
    JitterCurve,
    ReferencesCurve,
    jitter_curves,
    references_curves,
    write_jitter,
    write_references,
)
from medsam2_atlas.experiment.reporting.summary import write_cost_summary, write_summary
from medsam2_atlas.experiment.reporting.table_files import accuracy_tables, write_tables
from medsam2_atlas.experiment.results import Results
from medsam2_atlas.experiment.results_folder import remove_optional
from medsam2_atlas.experiment.run import Session
from medsam2_atlas.imaging.hounsfield import HuRule
from medsam2_atlas.imaging.labels import organ_table

_JITTER = (
    "reference-3 with true boxes and ranges that are displaced by a known distance: the accuracy of MedSAM2 if its prompts "
    "were off by that much. Shift: each organ's prompt moves in a random direction; scale: all its borders move outward, or "
    "inward if negative. Band: standard deviation between cases."
)
_REFERENCES = (
    "Atlases of random subsets of the references, each of which contains the smaller ones. The common space is that of all "
    "references, so the accuracy at small numbers may be slightly too high. Band: standard deviation between cases."
)


def write_outputs(
    results: Results, cases: Sequence[EvaluationCase], session: Session, choice: Choice, warnings: Sequence[str] = ()
) -> None:
    """Writes all files of an experiment into its folder, each in one step.

    Args:
        results: the records.
        cases: the cases, with their files.
        session: setting and models.
        choice: seed of the bootstrap, and what the report says about the run.
        warnings: sentences for the top of the report.
    """
    setting, out, seed = session.setting, session.setting.out, choice.seed
    made = _made_with(results, cases, session, choice, warnings)
    write_cases(results, out / "cases.csv")
    write_costs(results, out / "costs.csv")
    write_summary(results, out / "summary.json", seed=seed)
    write_cost_summary(results, out / "costs.json")
    write_json(made.model_dump(mode="json"), out / "made_with.json")
    figures = published()
    tables = accuracy_tables(results, figures, seed=seed)
    write_tables(tables, out)
    jitters = jitter_curves(results)
    counts = references_curves(results, _all_references(session))
    remove_optional(out)
    if jitters:
        write_jitter(jitters, out / "sensitivity.csv")
    if counts:
        write_references(counts, out / "references.csv")
    best = best_variant(results)
    plots = accuracy_plots(results, best)
    curves = [*_jitter_plots(jitters), *_references_plots(counts)]
    costs = cost_plots(results, break_even_panels(results, session, figures))
    write_plots([*plots, *curves, *costs], out / "plots")
    by_name = {case.name: case for case in cases}
    files = CaseFiles(
        image_of=lambda case: by_name[case].image,
        truth_of=lambda case: by_name[case].label,
        prediction_of=lambda case, variant: setting.label_file(case, variant),
        hu=HuRule.parse(setting.hu),
    )
    by_metric = {table.title: html_table(table) for table in tables if table.title in TITLES.values()}
    tests = [table for table in tables if table.title not in by_metric]
    parts = ReportParts(
        results,
        made,
        main_table=by_metric.pop(TITLES["dice"], ""),
        more_tables=by_metric,
        tests="\n".join(f"<h3>{escape(table.title)}</h3>{html_table(table)}" for table in tests),
        plots=tuple(plots),
        curves=tuple(curves),
        cost_table=html_table(cost_table(results)),
        cost_plots=tuple(costs),
        pictures=draw_cases(results, files),
    )
    write_report(parts, out / "report.html")


def _jitter_plots(curves: Sequence[JitterCurve]) -> list[Plot]:
    """Returns one plot: a panel for each kind of jitter, over all organs and for each organ."""
    table, panels = organ_table(), []
    for curve in curves:
        x = [point.amount for point in curve.points]
        mean = Curve("mean", x, [p.dice.mean for p in curve.points], [p.dice.deviation or 0.0 for p in curve.points])
        organs = [
            Curve(table[k].display, x, [point.organs[k] for point in curve.points])
            for k in table.indices
            if all(k in point.organs for point in curve.points)
        ]
        panels.append(Panel(f"{curve.kind} (mm)", "Dice", (mean,), f"{curve.segmenter}, all organs", (0, 1.02)))
        panels.append(Panel(f"{curve.kind} (mm)", "Dice", tuple(organs), f"{curve.segmenter}, each organ", (0, 1.02)))
    return curve_plots("jitter", "Jittered prompts", _JITTER, panels)


def _references_plots(curves: Sequence[ReferencesCurve]) -> list[Plot]:
    """Returns one plot: Dice, centre error and box IoU over the number of references."""
    panels = []
    for label, name, limits in (
        ("Dice", "dice", (0.0, 1.02)),
        ("error of the prompt's centre (mm)", "centre_mm", None),
        ("box IoU", "box_iou", (0.0, 1.02)),
    ):
        lines = []
        for curve in curves:
            known = [(point.references, value) for point in curve.points if (value := getattr(point, name)) is not None]
            if known:
                x, values = zip(*known, strict=True)
                lines.append(Curve(curve.segmenter, x, [v.mean for v in values], [v.deviation or 0.0 for v in values]))
        if lines:
            panels.append(Panel("number of references", label, tuple(lines), "", limits, whole=True))
    return curve_plots("references", "Number of references", _REFERENCES, panels)


def _all_references(session: Session) -> int | None:
    """Returns the number of references of the whole atlas as a point of the curves; None if it does not belong to them.

    Thresholds that are stored with an atlas were found with all references. Smaller atlases have none, so the whole atlas then
    follows another rule than they do.
    """
    if not session.setting.atlases:
        return None
    atlas = session.models(next(v for v in session.setting.variants if v.references is None)).atlas()
    stored = "thresholds" in atlas.options and session.setting.options.thresholds == "atlas"
    return None if stored else len(atlas.references)


def _made_with(
    results: Results, cases: Sequence[EvaluationCase], session: Session, choice: Choice, warnings: Sequence[str]
) -> MadeWith:
    weights: dict[str, dict[str, Any]] = {}
    marks: list[str] = [*warnings]
    atlas: Mapping[str, Any] = {}
    for variant in results.main:
        models = session.models(variant)
        try:
            used = models.segmenter(variant.segmenter).used_weights()
        except MedSAM2AtlasError as error:
            used = {"file": str(error)}
        if used:
            weights[variant.segmenter] = {**used, "file": str(used.get("file", "")).rpartition("/")[2]}
        for record in results.of(variant).values():
            atlas = atlas or _atlas_of(record.key, models)
            mark = str(record.report.get("mark") or "")
            if mark and mark not in marks:
                marks.append(mark)
    threads = sorted({record.threads for record in results.records})
    return MadeWith(
        **basis(),
        machine=machine(_device(results)),
        threads=", ".join(map(str, threads)),
        jobs=choice.jobs,
        atlas=dict(atlas),
        weights=weights,
        settings=list(choice.changed_settings),
        mode=session.setting.options.mode,
        as_published=session.setting.as_published,
        data={case.name: {"image": case.image_sha256, "label": case.label_sha256} for case in cases},
        marks=marks,
    )


def _device(results: Results) -> str:
    """Returns the devices of the networks, such as `cuda:0`."""
    return ", ".join(sorted({str(record.report.get("device") or "cpu") for record in results.records}))


def _atlas_of(key: Mapping[str, Any], models: Any) -> Mapping[str, Any]:
    """Returns version and references of the atlas that a record depends on; empty if it depends on none."""
    if "atlas" not in key.get("segmenter", {}):
        return {}
    atlas = models.atlas()
    return {"version": atlas.version, "references": [reference.name for reference in atlas.references]}
