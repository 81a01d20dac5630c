"""Makes a report of an experiment from made-up results, with plots and small pictures."""

from __future__ import annotations

import io
from functools import cache

from PIL import Image

from made_results import made_with, results
from medsam2_atlas.experiment import Results
from medsam2_atlas.experiment.reporting.cost_plots import CostLine, CostPanel
from medsam2_atlas.experiment.reporting.curve_plots import Curve, Panel
from medsam2_atlas.experiment.reporting.page import ReportParts
from medsam2_atlas.experiment.reporting.pictures import CasePictures, PredictionPicture
from medsam2_atlas.experiment.reporting.plots import accuracy_plots, cost_plots, curve_plots

HOSTILE = '<script>alert("1")</script>\u202e'
"""A name that would run code if it were not escaped."""

MAIN_TABLE = """<table class="sortable"><caption>Dice</caption><thead>
<tr><th scope="col" rowspan="2">Organ</th><th scope="colgroup" colspan="2">U-Nets</th><th scope="colgroup">Strategies</th></tr>
<tr><th scope="col">unet_2d</th><th scope="col">unet_3d</th><th scope="col">D</th></tr></thead><tbody>
<tr><th scope="row">Spleen</th><td data-value="0.9">.90</td><td data-value="0.8">.80</td><td data-value="0.1">.10</td></tr>
<tr><th scope="row">Liver</th><td data-value="0.95">.95</td><td data-value="0.7">.70</td><td>–</td></tr>
<tr><th scope="row">Aorta</th><td data-value="0.85">.85</td><td data-value="0.9">.90</td><td data-value="0.02">.02</td></tr>
</tbody><tfoot><tr><th scope="row">Mean</th><td data-value="0">.0</td><td>.8</td><td>.1</td></tr></tfoot></table>"""


def jpeg() -> bytes:
    """Returns a small grey picture."""
    stream = io.BytesIO()
    Image.new("L", (40, 20), 99).save(stream, "JPEG")
    return stream.getvalue()


def hostile_results() -> Results:
    """Returns results with names of segmenters, cases and problems that would run code if they were not escaped."""
    found = results(
        ("unet_3d", "reference-3", f"bundle:{HOSTILE}", "D"), cases=3, problems={f"left out {HOSTILE}": f"why {HOSTILE}"}
    )
    records = tuple(
        one.model_copy(update={"case": HOSTILE, "energy_how": f"estimated {HOSTILE}"}) if one.case == "case_02" else one
        for one in found.records
    )
    return Results(records, found.organs, found.problems)


@cache
def report_parts() -> ReportParts:
    """Returns a report with all sections and hostile names."""
    found = hostile_results()
    made = made_with().model_copy(
        update={
            "command": ["medsam2-atlas", "evaluate", HOSTILE],
            "settings": [f"fusion.yaml: {HOSTILE}"],
            "machine": {HOSTILE: HOSTILE},
            "weights": {"D": {"file": HOSTILE, "mark": "demo weights"}, HOSTILE: {HOSTILE: HOSTILE, "mark": HOSTILE}},
            "data": {HOSTILE: {"image": HOSTILE, "label": HOSTILE}},
        }
    )
    own = CostPanel("This experiment", "Wh", (CostLine("D", 0, 0.2), CostLine("unet_3d", 30, 0.1)))
    curves = curve_plots("jitter", "Shifted prompts", "Mean.", [Panel("shift (mm)", "Dice", (Curve("D", (0, 5), (0.8, 0.6)),))])
    drawn = PredictionPicture("D", ("best",), 0.8, jpeg())
    hostile = PredictionPicture(f"bundle:{HOSTILE}", ("worst",), 0.1, jpeg())
    gone = PredictionPicture(f"bundle:{HOSTILE}", ("best",), 0.2, None, "The prediction was not kept.")
    lost = PredictionPicture("unet_3d", ("worst",), 0.3, None, f"The prediction cannot be drawn. {HOSTILE}")
    pictures = (
        CasePictures("case_00", jpeg(), (drawn, gone, lost)),
        CasePictures(HOSTILE, jpeg(), (hostile, lost), f"unreadable {HOSTILE}"),
    )
    return ReportParts(
        found,
        made,
        f"Report {HOSTILE}",
        notes=(f"note {HOSTILE}",),
        main_table=MAIN_TABLE,
        more_tables={"NSD": MAIN_TABLE},
        tests="<p>Wilcoxon</p>",
        plots=tuple(accuracy_plots(found, found.main[-1])),
        curves=tuple(curves),
        cost_table="<p>costs</p>",
        cost_plots=tuple(cost_plots(found, [own])),
        pictures=pictures,
    )
