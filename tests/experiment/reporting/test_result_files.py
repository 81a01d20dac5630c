"""CSV and JSON files of an experiment: contents, and equal bytes for equal records."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from made_results import organ, record, results
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.experiment import Cost, Results, Variant
from medsam2_atlas.experiment.reporting.csv_files import write_cases, write_costs
from medsam2_atlas.experiment.reporting.sensitivity import (
    jitter_curves,
    references_curves,
    write_jitter,
    write_references,
)
from medsam2_atlas.experiment.reporting.summary import cost_summary, summary, write_cost_summary, write_summary
from medsam2_atlas.experiment.reporting.table_files import accuracy_tables, write_tables

D = Variant(segmenter="D")
TRUE_BOXES = Variant(segmenter="reference-3")
CHANGED = [
    *(Variant(segmenter="reference-3", jitter=f"{kind}={mm}") for kind in ("shift", "scale") for mm in ("10", "-5", "2.5")),
    *(Variant(segmenter="D", references=n) for n in (10, 3)),
]


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def write_accuracy(found: Results, folder: Path) -> dict[str, bytes]:
    """Writes all files of accuracy, and returns their contents."""
    folder.mkdir()
    write_cases(found, folder / "cases.csv")
    write_summary(found, folder / "summary.json")
    write_tables(accuracy_tables(found), folder)
    write_jitter(jitter_curves(found), folder / "sensitivity.csv")
    write_references(references_curves(found, 15), folder / "references.csv")
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def one(dice: float, variant: Variant = D, case: str = "a", *, centre_mm: float | None = 5.0) -> Results:
    return Results((record(case, variant, [organ(1, dice, centre_mm=centre_mm)]),), (1,))


def joined(*parts: Results) -> Results:
    return Results(tuple(r for part in parts for r in part.records), (1,))


def test_accuracy_files_do_not_depend_on_the_order_of_records_or_on_times(tmp_path: Path) -> None:
    found = results(("unet_3d", "reference-3", "D"), cases=6, extra=CHANGED)
    mixed = [found.records[n] for n in np.random.default_rng(0).permutation(len(found.records))]
    slower = [r.model_copy(update={"total": Cost(seconds=999.0), "stages": {}, "energy_how": "elsewhere"}) for r in mixed]
    first = write_accuracy(found, tmp_path / "first")
    assert set(first) == {"cases.csv", "summary.json", "tables.md", "tables.tex", "sensitivity.csv", "references.csv"}
    assert write_accuracy(replace(found, records=tuple(slower)), tmp_path / "second") == first
    assert not any(str(tmp_path).encode() in content for content in first.values())


def test_cases_have_raw_scores_with_all_digits_beside_the_values_that_count(tmp_path: Path) -> None:
    dice = 1 / 3
    organs = [organ(1, dice), organ(2, 0, truth_ml=0, centre_mm=None), organ(3, 0, predicted_ml=0, centre_mm=None)]
    found = Results((record("a", D, organs, diagonal_mm=500.5),), (1, 2, 3))
    write_cases(found, tmp_path / "penalise.csv")
    write_cases(replace(found, empty="monai"), tmp_path / "monai.csv")
    whole, extra, missed = rows(tmp_path / "penalise.csv")
    assert (whole["case"], whole["segmenter"], whole["references"], whole["organ"]) == ("a", "D", "", "1")
    assert float(whole["dice"]) == float(whole["dice_by_rule"]) == dice
    assert (whole["organ_name"], whole["centre_mm"], whole["box_iou"], whole["cut"]) == ("spleen", "5.0", "0.875", "0")
    assert (whole["volume_difference_ml"], whole["without_prompt"]) == ("-10.0", "0")
    assert (extra["truth_empty"], extra["prediction_empty"], extra["hd95_mm"], extra["hd95_mm_by_rule"]) == (
        "1",
        "0",
        "",
        "500.5",
    )
    assert (extra["without_prompt"], extra["dice_by_rule"]) == ("0", "0.0")
    assert (missed["truth_empty"], missed["prediction_empty"], missed["without_prompt"]) == ("0", "1", "1")
    _, extra, missed = rows(tmp_path / "monai.csv")
    assert (extra["dice"], extra["dice_by_rule"], extra["nsd_by_rule"], extra["hd95_mm_by_rule"]) == ("0.0", "", "0.0", "")
    assert (missed["dice_by_rule"], missed["hd95_mm_by_rule"], missed["empty_rule"]) == ("0.0", "", "monai")


def test_names_of_cases_cannot_break_a_row(tmp_path: Path) -> None:
    write_cases(one(0.5, case='a,"b"\n\udcff'), tmp_path / "cases.csv")
    (row,) = rows(tmp_path / "cases.csv")
    assert row["case"] == 'a,"b"\\n\\udcff'
    assert row["dice"] == "0.5"


def test_costs_have_a_row_per_stage_with_the_total_first(tmp_path: Path) -> None:
    write_costs(one(0.5), tmp_path / "costs.csv")
    total, network = rows(tmp_path / "costs.csv")
    assert (total["stage"], total["seconds"], total["peak_mib"], total["gpu_mib"]) == ("total", "12.5", "900.0", "")
    assert (network["stage"], network["seconds"], network["watt_hours"]) == ("network", "10.0", "0.16")
    assert network["energy_how"] == "CodeCarbon, estimated"


def test_the_summary_has_means_intervals_tests_and_problems(tmp_path: Path) -> None:
    found = results(("B", "D"), cases=6, extra=CHANGED, problems={"case_9": "cannot be read."})
    write_summary(found, tmp_path / "summary.json")
    content = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert content == summary(found)
    assert (content["empty_masks"], content["nsd_tolerance_mm"]) == ("penalise", 2.0)
    assert content["problems"] == {"case_9": "cannot be read."}
    by_name = {variant["name"]: variant for variant in content["variants"]}
    assert len(by_name) == 2 + len(CHANGED)
    dice = by_name["D"]["metrics"]["dice"]
    assert dice["over_cases"]["mean"] == pytest.approx(np.mean(list(found.case_means(D, "dice").values())), abs=1e-6)
    assert dice["organs"]["liver"]["mean"] == pytest.approx(found.organ_means(D, "dice")[6], abs=1e-6)
    assert dice["interval"]["low"] < dice["over_cases"]["mean"] < dice["interval"]["high"]
    assert by_name["D"]["metrics"]["hd95_mm"]["interval"] is None
    assert by_name["D"]["organs_without_prompt"] == {"gallbladder": 1}
    (test,) = content["tests"]["dice"]
    assert (test["first"], test["second"], test["cases"]) == ("B", "D", 6)
    assert test["p"] == test["p_holm"] is not None


def test_the_summary_contains_no_costs_and_the_costs_no_scores(tmp_path: Path) -> None:
    found = results(("D",), cases=2)
    assert not any(word in json.dumps(summary(found)) for word in ("seconds", "watt", "mib"))
    write_cost_summary(found, tmp_path / "costs.json")
    content = json.loads((tmp_path / "costs.json").read_text(encoding="utf-8"))
    assert content == cost_summary(found)
    assert content["D"]["stages"]["total"]["seconds"] == 12.5
    assert content["D"]["energy_how"] == ["CodeCarbon, estimated"]


def test_a_jitter_curve_begins_with_the_original_prompts_and_is_sorted_by_amount() -> None:
    found = results(("reference-3", "D"), cases=3, extra=CHANGED)
    curves = {curve.kind: curve for curve in jitter_curves(found)}
    assert [p.amount for p in curves["shift"].points] == [-5.0, 0.0, 2.5, 10.0]
    assert list(curves) == ["scale", "shift"]
    point = curves["shift"].points[1]
    assert point.dice.mean == pytest.approx(np.mean(list(found.case_means(TRUE_BOXES, "dice").values())))
    assert point.organs == pytest.approx(found.organ_means(TRUE_BOXES, "dice"))
    assert point.dice.count == 3


def test_a_curve_uses_only_cases_that_all_its_variants_have() -> None:
    moved = Variant(segmenter="reference-3", jitter="shift=10")
    found = joined(one(0.9, TRUE_BOXES), one(0.1, TRUE_BOXES, "b"), one(0.6, moved))
    (curve,) = jitter_curves(found)
    assert [(p.amount, p.dice.mean, p.dice.count) for p in curve.points] == [(0.0, 0.9, 1), (10.0, 0.6, 1)]
    few = Variant(segmenter="D", references=2)
    found = joined(one(0.9), one(0.1, D, "b", centre_mm=None), one(0.6, few))
    (references,) = references_curves(found, 15)
    assert [(p.references, p.dice.mean, p.dice.count) for p in references.points] == [(2, 0.6, 1), (15, 0.9, 1)]
    assert [p.without_prompt for p in references.points] == [0, 0]


def test_curves_without_the_unchanged_segmenter_have_no_point_for_it() -> None:
    assert [p.amount for c in jitter_curves(one(0.5, CHANGED[0])) for p in c.points] == [10.0]
    assert [p.references for c in references_curves(one(0.5, CHANGED[-1]), 15) for p in c.points] == [3]
    both = joined(one(0.5), one(0.5, CHANGED[-1]))
    assert [p.references for c in references_curves(both, None) for p in c.points] == [3]
    assert jitter_curves(one(0.5)) == references_curves(one(0.5), 15) == []


def test_a_references_curve_has_prompt_errors_and_counts_missing_prompts() -> None:
    lost = one(0.0, Variant(segmenter="D", references=1), centre_mm=None)
    found = joined(one(0.9, centre_mm=8.0), lost)
    (curve,) = references_curves(found, 15)
    assert curve.segmenter == "D"
    first, last = curve.points
    assert (first.references, first.centre_mm, first.box_iou, first.without_prompt) == (1, None, None, 1)
    assert last.centre_mm is not None
    assert last.box_iou is not None
    assert (last.references, last.centre_mm.mean, last.box_iou.mean, last.without_prompt) == (15, 8.0, 0.8, 0)


def test_curves_are_written_as_csv(tmp_path: Path) -> None:
    found = results(("reference-3", "D"), cases=2, extra=CHANGED)
    write_jitter(jitter_curves(found), tmp_path / "sensitivity.csv")
    written = rows(tmp_path / "sensitivity.csv")
    assert len(written) == 2 * 4 * 16
    assert written[0]["organ"] == "mean"
    assert (written[0]["kind"], written[0]["amount_mm"], written[0]["cases"]) == ("scale", "-5.0", "2")
    write_references(references_curves(found, 15), tmp_path / "references.csv")
    assert [row["references"] for row in rows(tmp_path / "references.csv")] == ["3", "10", "15"]
    assert float(rows(tmp_path / "references.csv")[0]["dice"]) == references_curves(found, 15)[0].points[0].dice.mean


def test_curves_without_cases_in_common_are_omitted() -> None:
    assert jitter_curves(joined(one(0.5, TRUE_BOXES), one(0.5, CHANGED[0], "b"))) == []
    assert references_curves(joined(one(0.5), one(0.5, CHANGED[-1], "b")), 15) == []


@pytest.mark.parametrize("jitter", ["shift=far", "shift=nan", "shift"])
def test_a_jitter_without_a_distance_is_refused(jitter: str) -> None:
    with pytest.raises(InputError, match="KIND=AMOUNT"):
        jitter_curves(one(0.5, Variant(segmenter="reference-3", jitter=jitter)))
