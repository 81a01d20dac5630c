"""Writes a comparison to disk: a self-contained `index.html`, the plots, and the figures as CSV and JSON."""

from __future__ import annotations

import csv
import io
import logging
from pathlib import Path
from typing import Any

from PIL import Image

from medsam2_atlas.base.files import replacing, write_json
from medsam2_atlas.comparison.plots import agreement_plot, dice_per_organ_plot
from medsam2_atlas.comparison.studies import CaseComparison, Comparison
from medsam2_atlas.imaging.hounsfield import read_ct
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.preview import draw_preview
from medsam2_atlas.imaging.volume import read_labels
from medsam2_atlas.pages import document, embedded, png, svg, text
from medsam2_atlas.storage import StudyFolder

log = logging.getLogger(__name__)

_DIFFER = (
    "Score map and network differ: of the voxels that one of them alone gives to the organ, the share that the other one does "
    "not. Check organs with a high share first."
)
_Pictures = list[tuple[str, Image.Image]]


def write_comparison(result: Comparison, folder: StudyFolder, out: Path, *, worst: int = 5) -> None:
    """Writes the comparison to a folder, which is created if missing.

    Args:
        result: result of `compare_studies`.
        folder: the compared studies, for the pictures.
        out: folder to write to.
        worst: number of cases shown as pictures; the cases with the lowest agreement are shown.
    """
    out.mkdir(parents=True, exist_ok=True)
    plots = {"dice": dice_per_organ_plot(result), "agreement": agreement_plot(result.history)}
    for name, figure in plots.items():
        with replacing(out / f"{name}.png") as part:
            part.write_bytes(png(figure))
    with replacing(out / "comparison.csv") as part, part.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(_rows(result))
    ranked = sorted((case for case in result.cases if case.scores), key=lambda case: case.mean_dice)[:worst]
    pictures = [(case, drawn) for case in ranked if (drawn := _drawn(case, result, folder))]
    write_json(_summary(result), out / "comparison.json")
    with replacing(out / "index.html") as part:
        part.write_text(_page(result, {name: svg(figure) for name, figure in plots.items()}, pictures), encoding="utf-8")


def _rows(result: Comparison) -> list[list[Any]]:
    table = organ_table()
    head = ["study", "organ", "dice_between", "nsd_between", "hd95_mm_between", "volume_difference_ml"]
    rows: list[list[Any]] = [[*head, *(f"dice_{model}_to_final" for model in result.models)]]
    for case in result.cases:
        for k, score in case.scores.items():
            finals = [case.final.get(model, {}).get(k) for model in result.models]
            figures = score.as_dict()
            row = [case.study, table[k].name, *(figures[key] for key in ("dice", "nsd", "hd95_mm", "volume_difference_ml"))]
            rows.append([*row, *("" if f is None else round(f.dice, 4) for f in finals)])
    return rows


def _summary(result: Comparison) -> dict[str, Any]:
    table = organ_table()
    return {
        "models": list(result.models),
        "marks": result.marks,
        "agreement": result.agreement(),
        "organs": {o.name: result.agreement(o.index) for o in table.organs},
        "final": {model: result.against_final(model) for model in result.models},
        "seconds_median": {model: result.seconds(model) for model in result.models},
        "studies": {
            case.study: {
                "mean_dice": round(case.mean_dice, 4),
                "organs": {table[k].name: score.as_dict() for k, score in case.scores.items()},
                "seconds": case.seconds,
                "watt_hours": case.watt_hours,
                **({"disagreement": _named(case.disagreement)} if case.disagreement else {}),
            }
            for case in result.cases
        },
        "problems": result.problems,
        "history": result.history,
        "hu": str(result.hu),
    }


def _drawn(case: CaseComparison, result: Comparison, folder: StudyFolder) -> _Pictures:
    """Draws the pictures of a case. If a file cannot be read, records the case's problem and returns no pictures."""
    try:
        return _pictures(case, result, folder)
    except Exception as error:
        result.problems[case.study] = f"cannot be drawn ({error})."
        log.exception("%s cannot be drawn", case.study)
        return []


def _pictures(case: CaseComparison, result: Comparison, folder: StudyFolder) -> _Pictures:
    study = next(study for study in folder.studies() if study.name == case.study)
    image = read_ct(study.image, result.hu)
    shown = [(model, folder.labels(model)[case.study]) for model in result.models]
    if study.final is not None:
        shown.append(("final", study.final))
    labels = [(name, read_labels(file, image).array) for name, file in shown]
    return [(name, draw_preview(image, array, like=labels[0][1])) for name, array in labels]


def _page(
    result: Comparison, plots: dict[str, bytes], pictures: list[tuple[CaseComparison, list[tuple[str, Image.Image]]]]
) -> str:
    first, second = (text(model) for model in result.models)
    title = f"{result.models[0]} and {result.models[1]}, {len(result.cases)} studies"
    parts = [f"<main class=single><h1>{text(title)}</h1>"]
    parts += [f"<p class=mark>{text(mark)}</p>" for mark in result.marks]
    parts.append("<p>Research use only; not a medical device.</p>")
    parts.append(
        "<div class=scroll><table class=sortable><thead><tr><th scope=col>organ</th><th scope=col>Dice between the two</th>"
    )
    parts.append(f"<th scope=col>{first}, Dice to final</th><th scope=col>{second}, Dice to final</th>")
    fused = [model for model in result.models if result.disagreement(model) is not None]
    parts += [f"<th scope=col>{text(model)}, score map and network differ</th>" for model in fused]
    parts.append("</tr></thead><tbody>")
    for organ in organ_table().organs:
        cells = [result.agreement(organ.index), *(result.against_final(model, organ.index) for model in result.models)]
        cells += [result.disagreement(model, organ.index) for model in fused]
        parts.append(f"<tr><th scope=row>{text(organ.display)}" + "".join(f"<td>{_number(value)}" for value in cells))
    cells = [result.agreement(), *(result.against_final(model) for model in result.models)]
    cells += [result.disagreement(model) for model in fused]
    parts.append("</tbody><tfoot><tr><th scope=row>mean" + "".join(f"<td>{_number(value)}" for value in cells))
    parts.append("</tfoot></table></div>")
    if fused:
        parts.append(f"<p>{_DIFFER}</p>")
    parts.append("<p>Median time of a case: " + "; ".join(f"{text(m)} {result.seconds(m):.1f} s" for m in result.models))
    for heading, name in (("Dice per organ", "dice"), ("Agreement over labelled cases", "agreement")):
        parts.append(f"<h2>{heading}</h2><img alt='{heading}' src='{embedded(plots[name])}'>")
    if pictures:
        parts.append("<h2>Cases with the lowest agreement</h2>")
    for case, drawn in pictures:
        parts.append(f"<h3>{text(case.study)}: mean Dice {case.mean_dice:.2f}</h3>")
        for name, picture in drawn:
            stream = io.BytesIO()
            picture.save(stream, "PNG")
            parts.append(f"<p>{text(name)}</p><img alt='{text(name)}' src='{embedded(stream.getvalue())}'>")
    for study, problem in result.problems.items():
        parts.append(f"<p class=problem>{text(study)}: {text(problem)}</p>")
    return document(title, "\n".join([*parts, "</main>"]))


def _named(shares: dict[str, dict[int, float]]) -> dict[str, dict[str, float]]:
    table = organ_table()
    return {model: {table[k].name: share for k, share in organs.items()} for model, organs in shares.items()}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
