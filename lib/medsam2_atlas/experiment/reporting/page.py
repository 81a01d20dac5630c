"""The report of an experiment: one HTML file without outside parts, which a browser opens from disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from medsam2_atlas.base.files import replacing
from medsam2_atlas.experiment.made_with import MadeWith
from medsam2_atlas.experiment.reporting.overview import best_variant
from medsam2_atlas.experiment.reporting.pictures import CasePictures
from medsam2_atlas.experiment.reporting.plots import Plot
from medsam2_atlas.experiment.reporting.sections import (
    cases_table,
    facts,
    left_out,
    made_with_list,
    picture_gallery,
    plot_figures,
    summary_table,
    warnings_of,
)
from medsam2_atlas.experiment.results import Results
from medsam2_atlas.pages import document, text

_RULES = {
    "penalise": "An organ that only one of ground truth and prediction contains has Dice 0, NSD 0, and an HD95 of the image's "
    "diagonal.",
    "monai": "An organ that only one of ground truth and prediction contains counts as in MONAI's metrics: Dice 0 if the "
    "ground truth contains it, else no Dice; NSD 0; no HD95.",
}


@dataclass(frozen=True)
class ReportParts:
    """Everything that a report shows.

    The fields with HTML are inserted as they are: their makers escape all names. They must not contain `style` attributes,
    which the page's policy blocks. Empty fields omit their sections.

    Attributes:
        results: records of the experiment.
        made_with: versions, checksums, machine and settings.
        title: title of the page.
        notes: sentences below the summary, such as the outcome of a test.
        main_table: HTML of the main table, Dice per organ and segmenter.
        more_tables: HTML of the same table for other metrics, by title.
        tests: HTML of the paired tests.
        plots: plots of accuracy.
        curves: plots of sensitivity: jittered prompts, number of references.
        cost_table: HTML of the cost table.
        cost_plots: plots of cost, with break-even.
        pictures: pictures of chosen cases.
    """

    results: Results
    made_with: MadeWith
    title: str = "Evaluation of segmenters"
    notes: tuple[str, ...] = ()
    main_table: str = ""
    more_tables: Mapping[str, str] = field(default_factory=dict)
    tests: str = ""
    plots: tuple[Plot, ...] = ()
    curves: tuple[Plot, ...] = ()
    cost_table: str = ""
    cost_plots: tuple[Plot, ...] = ()
    pictures: tuple[CasePictures, ...] = ()


def write_report(parts: ReportParts, file: Path) -> None:
    """Writes a report, in one step.

    Args:
        parts: what the report shows.
        file: the HTML file; its folder must exist.
    """
    with replacing(file) as part:
        part.write_text(report_page(parts), encoding="utf-8")


def report_page(parts: ReportParts) -> str:
    """Returns a report, as an HTML document."""
    sections = [(name, title, body) for name, title, body in _sections(parts) if body]
    contents = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, title, _ in sections)
    body = [
        '<a class="skip" href="#summary">Skip to the summary</a>',
        '<div class="layout">',
        f'<nav class="contents" aria-label="Contents"><ul>{contents}</ul></nav>',
        f"<main><h1>{text(parts.title)}</h1>",
        '<p class="lead">Research use only; not a medical device.</p>',
        warnings_of(parts.results, parts.made_with),
        *(f'<section><h2 id="{name}">{title}</h2>\n{content}</section>' for name, title, content in sections),
        f"<footer>medsam2_atlas {text(parts.made_with.version)}. Research use only; not a medical device.</footer>",
        "</main></div>",
    ]
    return document(parts.title, "\n".join(body))


def _sections(parts: ReportParts) -> list[tuple[str, str, str]]:
    """Returns anchor, title and HTML of each section; the HTML is empty if there is nothing to show."""
    results, best = parts.results, best_variant(parts.results)
    notes = "".join(f"<p>{text(note)}</p>" for note in (_RULES[results.empty], *parts.notes))
    hows = sorted({record.energy_how for record in results.records if record.energy_how})
    measured = f'<p class="muted">Energy: {text("; ".join(hows))}.</p>' if hows else ""
    cost = "\n".join(filter(None, (_scrolled(parts.cost_table), plot_figures(parts.cost_plots))))
    more = "".join(
        f"<details><summary>{text(title)}</summary>{_scrolled(html)}</details>"
        for title, html in parts.more_tables.items()
        if html
    )
    return [
        ("summary", "Summary", facts(results, best) + summary_table(results, best) + notes),
        ("organs", "Dice per organ", _scrolled(parts.main_table) + more),
        ("tests", "Paired tests", _scrolled(parts.tests)),
        ("plots", "Plots", plot_figures(parts.plots)),
        ("curves", "Sensitivity", plot_figures(parts.curves)),
        ("cost", "Cost and energy", cost and cost + measured),
        ("cases", "All cases", cases_table(results, parts.pictures) if results.main else ""),
        ("pictures", "Best, median and worst cases", picture_gallery(results, parts.pictures) if parts.pictures else ""),
        ("left-out", "Missing results", left_out(results.problems) if results.problems else ""),
        ("made-with", "Versions and data", made_with_list(parts.made_with)),
    ]


def _scrolled(html: str) -> str:
    return f'<div class="scroll">{html}</div>' if html else ""
