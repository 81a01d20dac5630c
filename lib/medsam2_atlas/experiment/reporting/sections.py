"""The sections of a report: summary, plots, cases, pictures, missing results, versions and data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from medsam2_atlas.experiment.made_with import MadeWith
from medsam2_atlas.experiment.reporting.overview import Line, overview, reads_truth
from medsam2_atlas.experiment.reporting.pictures import RANKS, CasePictures
from medsam2_atlas.experiment.reporting.plots import Plot
from medsam2_atlas.experiment.results import Metric, Results
from medsam2_atlas.experiment.variant import Variant
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.pages import embedded, text

_SHOWN: tuple[tuple[Metric, int], ...] = (("dice", 3), ("nsd", 3), ("hd95_mm", 1))
"""Metrics of tables, and their decimal places."""
_TRUTH_TAG = "<span class=tag>reads the ground truth</span>"


def warnings_of(results: Results, made_with: MadeWith) -> str:
    """Returns the warnings at the top: marks of weights, segmenters that read the ground truth, fast mode, left-out cases."""
    by_mark: dict[str, list[str]] = {mark: [] for mark in made_with.marks}
    for segmenter, about in made_with.weights.items():
        if about.get("mark"):
            by_mark.setdefault(str(about["mark"]), []).append(segmenter)
    found = [text(f"{mark} ({', '.join(names)})" if names else mark) for mark, names in by_mark.items()]
    reading = [variant.name for variant in results.main if reads_truth(variant)]
    if reading:
        verb = "reads" if len(reading) == 1 else "read"
        found.append(text(f"{', '.join(reading)} {verb} the ground truth; no such scores are possible without it."))
    fast = [v.name for v in results.main if any(r.report.get("mode") == "fast" for r in results.of(v).values())]
    if fast:
        found.append(text(f"{', '.join(fast)}: MedSAM2 ran in the fast mode; its exact results differ."))
    warnings = [f'<p class="mark">{one}</p>' for one in found]
    if results.problems:
        count = len(results.problems)
        words = "1 result is missing" if count == 1 else f"{count} results are missing"
        warnings.append(f'<p class="problem">{words}; <a href="#left-out">the reasons are listed below</a>.</p>')
    return "\n".join(warnings)


def facts(results: Results, best: Variant | None) -> str:
    """Returns the most important figures, as a list of tiles.

    Args:
        results: the experiment.
        best: the variant with the highest mean Dice that does not read the ground truth.
    """
    tiles = [("cases", str(len(results.cases))), ("organs", str(len(results.organs))), ("segmenters", str(len(results.main)))]
    line = next((line for line in overview(results) if line.variant == best), None)
    if line is not None:
        tiles += [("highest mean Dice", f"{line.means['dice'][0]:.3f}"), ("best segmenter", line.variant.name)]
        tiles += [("its median time per case", _duration(line.seconds))] if line.seconds is not None else []
    return '<dl class="facts">' + "".join(f"<div><dt>{text(k)}</dt><dd>{text(v)}</dd></div>" for k, v in tiles) + "</dl>"


def summary_table(results: Results, best: Variant | None) -> str:
    """Returns the table of the main variants, as HTML; see `facts` for `best`."""
    heads = ("Segmenter", "Cases", "Dice", "NSD", "HD95 (mm)", "Organs without prompt", "Time (s)", "Energy (Wh)", "CO₂e (g)")
    caption = (
        "A case's value is its mean over organs. Scores: mean ± standard deviation over cases. Time: median. Energy: mean. "
        "Highlighted: the highest mean Dice of the segmenters that do not read the ground truth."
    )
    return sortable(heads, (_summary_row(line, line.variant == best) for line in overview(results)), caption)


def plot_figures(plots: Iterable[Plot]) -> str:
    """Returns plots with titles and captions, as HTML."""
    found = []
    for plot in plots:
        figure = (
            f'<figure><div class="scroll wide"><img alt="{text(plot.title)}" src="{embedded(plot.content)}"></div>'
            f"<figcaption>{text(plot.caption)}</figcaption></figure>"
        )
        title = text(plot.title)
        found.append(f"<details><summary>{title}</summary>{figure}</details>" if plot.folded else f"<h3>{title}</h3>{figure}")
    return "\n".join(found)


def cases_table(results: Results, pictures: Sequence[CasePictures]) -> str:
    """Returns the table of all cases and main variants, as HTML; the names of cases with pictures are links to them.

    Args:
        results: the experiment.
        pictures: the cases with pictures, in the order of the page.
    """
    anchors = {shown.case: f"case-{number}" for number, shown in enumerate(pictures)}
    heads = ("Case", "Segmenter", "Mean Dice", "Mean NSD", "Mean HD95 (mm)", "Lowest Dice", "Organ of lowest Dice", "Time (s)")
    rows = []
    for variant in results.main:
        means = {metric: results.case_means(variant, metric) for metric, _ in _SHOWN}
        by_organ = {organ: results.values(variant, "dice", organ) for organ in results.organs}
        for case, record in results.of(variant).items():
            lowest = min(((values[case], organ) for organ, values in by_organ.items() if case in values), default=None)
            name = text(case)
            link = f'<a href="#{anchors[case]}">{name}</a>' if case in anchors else name
            cells = [
                f'<th scope="row" data-value="{name}">{link}</th>',
                f'<td class="l">{text(variant.name)}</td>',
                *(number(means[metric].get(case), digits) for metric, digits in _SHOWN),
                number(lowest[0] if lowest else None, 3),
                f'<td class="l">{text(organ_table()[lowest[1]].display) if lowest else ""}</td>',
                number(record.total.seconds, 1),
            ]
            rows.append((case, "".join(cells)))
    rows.sort(key=lambda row: row[0])  # stable: variants keep their order
    left = ("Segmenter", "Organ of lowest Dice")
    return sortable(heads, (row for _, row in rows), "Click a header to sort.", left=left, tall=True)


def picture_gallery(results: Results, pictures: Sequence[CasePictures]) -> str:
    """Returns an index of the chosen cases by variant, and their pictures, as HTML.

    Args:
        results: the experiment.
        pictures: pictures of the chosen cases.
    """
    where: dict[tuple[str, str], str] = {}
    for place, shown in enumerate(pictures):
        for one in shown.predictions:
            link = f'<td class="l"><a href="#case-{place}">{text(shown.case)}</a> ({one.mean_dice:.2f})</td>'
            where |= {(one.variant, rank): link for rank in one.ranks}
    rows = [
        f'<tr><th scope="row">{text(v.name)}</th>' + "".join(where.get((v.name, rank), "<td></td>") for rank in RANKS) + "</tr>"
        for v in results.main
    ]
    head = "".join(
        f'<th scope="col" class="l">{name}</th>'
        for name in ("Segmenter", *(f"{rank.capitalize()} (mean Dice)" for rank in RANKS))
    )
    index = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    truth = {variant.name for variant in results.main if reads_truth(variant)}
    return "\n".join([index, *(_case_pictures(place, shown, truth) for place, shown in enumerate(pictures))])


def left_out(problems: Mapping[str, str]) -> str:
    """Returns the table of cases without a result, with the reasons, as HTML."""
    rows = (f'<th scope="row">{text(name)}</th><td class="l long">{text(why)}</td>' for name, why in sorted(problems.items()))
    return sortable(("Case, segmenter", "Reason"), rows, left=("Reason",))


def made_with_list(made: MadeWith) -> str:
    """Returns versions, checksums, machine and settings, as HTML."""
    entries = {
        "medsam2_atlas": made.version,
        "Python": made.python,
        "packages": ", ".join(f"{name} {version}" for name, version in made.packages.items()),
        **{name.replace("_", " ").replace("memory gib", "memory (GiB)"): _shown(value) for name, value in made.machine.items()},
        "threads per process": str(made.threads),
        "processes": str(made.jobs),
        **{f"atlas, {name}": _shown(value) for name, value in made.atlas.items()},
        "mode of MedSAM2": made.mode,
        "method": "as published" if made.as_published else "default",
        "settings changed": "; ".join(made.settings) or "none",
    }
    items = "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in entries.items())
    parts = [f'<dl class="made">{items}</dl>', f"<h3>Command</h3><pre>{text(' '.join(made.command))}</pre>"]
    if made.weights:
        names = list(dict.fromkeys(name for about in made.weights.values() for name in about))
        rows = (_codes(segmenter, [_shown(about.get(name, "")) for name in names]) for segmenter, about in made.weights.items())
        parts += ["<h3>Weights</h3>", sortable(("Segmenter", *names), rows, left=names)]
    if made.data:
        rows = (_codes(case, [sums.get(key, "") for key in ("image", "label")]) for case, sums in made.data.items())
        heads = ("SHA-256 of the image", "SHA-256 of the ground truth")
        table = sortable(("Case", *heads), rows, left=heads, tall=True)
        parts.append(f"<details><summary>Checksums of {len(made.data)} cases</summary>{table}</details>")
    return "\n".join(parts)


def sortable(
    heads: Sequence[str], rows: Iterable[str], caption: str = "", *, left: Sequence[str] = (), tall: bool = False
) -> str:
    """Returns a sortable table, as HTML.

    Args:
        heads: headers of the columns, not escaped.
        rows: cells of each row, as HTML.
        caption: caption, not escaped; empty for none.
        left: headers of columns with text, which are aligned to the left.
        tall: whether the table scrolls within the page.
    """
    head = "".join(f'<th scope="col"{" class=l" if name in left else ""}>{text(name)}</th>' for name in heads)
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    below = f"<p class=muted>{text(caption)}</p>" if caption else ""
    kind = "scroll tall" if tall else "scroll"
    focus = ' tabindex="0"' if tall else ""  # so that the keyboard can scroll it
    table = f'<table class="sortable"><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>'
    return f'<div class="{kind}"{focus}>{table}</div>{below}'


def number(value: float | None, digits: int) -> str:
    """Returns a cell with a number; it is empty, and is sorted last, if the number is unknown."""
    if value is None or math.isnan(value):
        return '<td data-value="">–</td>'
    return f'<td data-value="{value!r}">{value:.{digits}f}</td>'


def _summary_row(line: Line, best: bool) -> str:
    name = f'<th scope="row" data-value="{text(line.variant.name)}">{text(line.variant.name)}'
    cells = [f"{name}{_TRUTH_TAG if line.reads_truth else ''}</th>", f'<td data-value="{line.cases}">{line.cases}</td>']
    for metric, digits in _SHOWN:
        mean, deviation = line.means.get(metric, (math.nan, math.nan))
        spread = "" if math.isnan(deviation) else f" ± {deviation:.{digits}f}"
        marked = " class=best" if best and metric == "dice" else ""
        shown = "–" if math.isnan(mean) else f"{mean:.{digits}f}{spread}"
        cells.append(f'<td{marked} data-value="{"" if math.isnan(mean) else repr(mean)}">{shown}</td>')
    prompts = None if line.without_prompt is None else float(line.without_prompt)
    cells += [number(prompts, 0), number(line.seconds, 1), number(line.watt_hours, 3), number(line.co2_grams, 3)]
    return "".join(cells)


def _case_pictures(place: int, shown: CasePictures, truth: set[str]) -> str:
    parts = [f'<h3 id="case-{place}">{text(shown.case)}</h3>']
    parts += [f'<p class="problem">{text(shown.remark)}</p>'] if shown.remark else []
    if shown.truth is not None:
        parts.append(_picture("Ground truth", "", f"ground truth of {shown.case}", shown.truth))
    for one in shown.predictions:
        tag = _TRUTH_TAG if one.variant in truth else ""
        words = f"{one.variant}: {' and '.join(one.ranks)} case, mean Dice {one.mean_dice:.3f}"
        if one.content is not None:
            parts.append(_picture(words, tag, f"{one.variant} on {shown.case}", one.content))
        else:
            parts.append(f"<p>{text(words)}{tag}. {text(one.remark)}</p>")
    return "\n".join(parts)


def _picture(words: str, tag: str, alternative: str, content: bytes) -> str:
    picture = f'<img alt="{text(alternative)}" src="{embedded(content)}">'
    return f'<figure><div class="scroll wide">{picture}</div><figcaption>{text(words)}{tag}</figcaption></figure>'


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"{len(value)}: {', '.join(map(str, value))}" if value else "none"
    return "unknown" if value is None else str(value)


def _codes(name: str, values: Iterable[str]) -> str:
    return f'<th scope="row">{text(name)}</th>' + "".join(f'<td class="code">{text(value)}</td>' for value in values)
