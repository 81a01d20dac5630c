"""The tables of accuracy, paired comparisons, intervals and costs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from made_results import organ, record, results
from medsam2_atlas.experiment import METRICS, Cost, Results, Variant
from medsam2_atlas.experiment.reporting.accuracy import accuracy_table
from medsam2_atlas.experiment.reporting.cost_table import cost_table, median_costs
from medsam2_atlas.experiment.reporting.order import GROUPS, ordered
from medsam2_atlas.experiment.reporting.paired_table import interval_table, paired_table
from medsam2_atlas.experiment.reporting.statistics import estimates, paired_tests
from medsam2_atlas.experiment.reporting.table import Cell, Column, Row, Table

A, D = Variant(segmenter="A"), Variant(segmenter="D")


class Published:
    """Published Dice of D and unet_3d; organ 4 has none."""

    def dice(self, segmenter: str, organ: int) -> tuple[float, float | None] | None:
        found = {"D": (0.89, 0.14), "unet_3d": (0.92, None)}
        return None if organ == 4 else found.get(segmenter)

    def mean(self, segmenter: str) -> tuple[float, float | None] | None:
        return {"D": (0.69, 0.18), "unet_3d": (0.82, 0.09)}.get(segmenter)


def cells(table: Table, row: str) -> dict[str, str]:
    """Returns the texts of a row by column."""
    (found,) = (r for r in table.rows if r.title == row)
    return {column.title: cell.text for column, cell in zip(table.columns, found.cells, strict=True)}


def best(table: Table, row: str) -> set[str]:
    """Returns the columns of a row that are marked."""
    (found,) = (r for r in table.rows if r.title == row)
    return {column.title for column, cell in zip(table.columns, found.cells, strict=True) if cell.best}


def two_organs(dice: dict[str, list[tuple[float, float]]], *, empty: str = "penalise") -> Results:
    """Returns results with organs 1 and 2; each case of a segmenter has one Dice for each."""
    records = [
        record(f"case_{n}", Variant(segmenter=name), [organ(1, first), organ(2, second)])
        for name, cases in dice.items()
        for n, (first, second) in enumerate(cases)
    ]
    return Results(tuple(records), (1, 2), empty=empty)  # type: ignore[arg-type]


def test_columns_stand_in_groups_in_the_order_of_the_published_table() -> None:
    names = (
        "nnunet:x",
        "E",
        "atlas",
        "reference-3",
        "D",
        "unet_3d",
        "bundle:a",
        "A",
        "reference-1",
        "unet_2d",
        "from_elsewhere",
    )
    table = accuracy_table(results(names, cases=1), "dice")
    assert [column.title for column in table.columns] == [
        *("unet_2d", "unet_3d", "reference-1", "reference-3", "atlas", "A", "D", "E", "bundle:a", "from_elsewhere", "nnunet:x")
    ]
    assert list(table.groups()) == list(zip(GROUPS, (2, 2, 4, 3), strict=True))


def test_changed_variants_are_not_in_the_table_and_follow_their_segmenter_in_other_orders() -> None:
    changed = [Variant(segmenter="D", references=n) for n in (10, 3)]
    changed += [Variant(segmenter="reference-3", jitter=f"shift={mm}") for mm in (20, 5)]
    found = results(("D", "reference-3"), cases=1, extra=changed)
    assert [column.title for column in accuracy_table(found, "dice").columns] == ["reference-3", "D"]
    assert [variant.name for variant in ordered(found.variants)] == [
        *("reference-3", "reference-3, shift=5 mm", "reference-3, shift=20 mm", "D", "D, 3 references", "D, 10 references")
    ]


def test_cells_have_mean_and_sample_deviation_over_the_cases() -> None:
    table = accuracy_table(two_organs({"D": [(0.5, 0.9), (0.6, 0.7), (0.7, 0.8)]}), "dice")
    assert cells(table, "Spleen") == {"D": "0.600 ± 0.100"}
    assert cells(table, "Right kidney") == {"D": "0.800 ± 0.100"}
    # Organ means .6 and .8: deviation √(2·.1²) between organs. Case means .7, .65, .75: deviation .05 between cases.
    assert cells(table, "Mean over organs") == {"D": "0.700 ± 0.141"}
    assert cells(table, "Mean over cases") == {"D": "0.700 ± 0.050"}
    assert cells(table, "Cases") == {"D": "3"}


def test_one_case_has_no_deviation() -> None:
    table = accuracy_table(two_organs({"D": [(0.5, 0.9)]}), "dice")
    assert cells(table, "Spleen") == {"D": "0.500"}
    assert cells(table, "Mean over cases") == {"D": "0.700"}


def test_published_dice_stands_beside_the_same_segmenter_and_never_competes() -> None:
    table = accuracy_table(results(("unet_3d", "A", "D"), cases=2), "dice", Published())
    assert [(column.title, column.published) for column in table.columns] == [
        *(("unet_3d", False), ("unet_3d, published", True), ("A", False), ("D", False), ("D, published", True))
    ]
    assert cells(table, "Liver")["D, published"] == "0.89 ± 0.14"
    assert cells(table, "Liver")["unet_3d, published"] == "0.92"
    assert cells(table, "Gallbladder")["D, published"] == ""
    assert cells(table, "Mean over organs")["D, published"] == "0.69 ± 0.18"
    assert cells(table, "Mean over cases")["D, published"] == cells(table, "Cases")["D, published"] == ""
    assert not any(cell.best for row in table.rows for cell, c in zip(row.cells, table.columns, strict=True) if c.published)
    assert "published" in table.caption
    assert not any(column.published for column in accuracy_table(results(("D",), cases=2), "nsd", Published()).columns)


def test_the_best_of_each_group_is_marked_with_all_values_that_are_equal_as_printed() -> None:
    found = two_organs({"A": [(0.70004, 0.5)], "B": [(0.70001, 0.6)], "D": [(0.6, 0.7)], "unet_3d": [(0.9, 0.9)]})
    table = accuracy_table(found, "dice")
    assert best(table, "Spleen") == {"A", "B"}
    assert best(table, "Right kidney") == {"D"}  # unet_3d is alone in its group
    assert best(table, "Cases") == set()


def test_lower_distances_and_smaller_volume_differences_are_better() -> None:
    found = two_organs({"A": [(0.7, 0.5)], "D": [(0.6, 0.7)]})
    assert best(accuracy_table(found, "hd95_mm"), "Spleen") == {"A"}
    volumes = {"A": 130.0, "D": 80.0}
    records = [record("a", Variant(segmenter=k), [organ(1, 0.5, predicted_ml=v)]) for k, v in volumes.items()]
    table = accuracy_table(Results(tuple(records), (1,)), "volume_difference_ml")
    assert cells(table, "Spleen") == {"A": "30.0", "D": "−20.0"}
    assert best(table, "Spleen") == {"D"}


def test_organs_without_a_prompt_are_counted_only_for_segmenters_with_prompts() -> None:
    trained = record("a", Variant(segmenter="unet_3d"), [organ(1, 0.5, centre_mm=None)], prompted=False)
    prompted = record("a", D, [organ(1, 0, predicted_ml=0, centre_mm=None), organ(2, 0.5)])
    found = Results((trained, prompted), (1, 2))
    assert cells(accuracy_table(found, "dice"), "Organs without a prompt") == {"unet_3d": "", "D": "1"}
    assert [column.title for column in accuracy_table(found, "centre_mm").columns] == ["D"]
    assert cells(accuracy_table(found, "centre_mm"), "Spleen") == {"D": ""}


def test_a_note_gives_the_number_of_cases_of_organs_that_do_not_count_in_all() -> None:
    found = two_organs({"A": [(0.5, 0.6)] * 3, "D": [(0.5, 0.6)] * 3})
    without = [r.model_copy(update={"organs": r.organs[1:]}) if r.case == "case_0" else r for r in found.records]
    assert accuracy_table(found, "dice").notes == ()
    (note,) = accuracy_table(replace(found, records=tuple(without)), "dice").notes
    assert note.endswith(": Spleen 2.")
    (note,) = accuracy_table(replace(found, records=tuple(without[:3]) + found.records[3:]), "dice").notes
    assert note.endswith(": Spleen (A 2).")


def test_captions_state_cases_rule_and_tolerance() -> None:
    found = two_organs({"D": [(0.5, 0.9)]})
    assert "1 case." in accuracy_table(found, "dice").caption
    assert "Tolerance: 2 mm." in accuracy_table(found, "nsd").caption
    assert "diagonal" in accuracy_table(found, "hd95_mm").caption
    assert "diagonal" not in accuracy_table(replace(found, empty="monai"), "hd95_mm").caption
    assert "lacks does not count" in accuracy_table(replace(found, empty="monai"), "dice").caption


@pytest.mark.parametrize("metric", METRICS)
def test_tables_do_not_depend_on_the_order_of_records(metric: str) -> None:
    found = results(("A", "D", "unet_3d"), cases=4)
    mixed = [found.records[n] for n in np.random.default_rng(0).permutation(len(found.records))]
    turned = replace(found, records=tuple(mixed))
    assert accuracy_table(turned, metric, Published()) == accuracy_table(found, metric, Published())  # type: ignore[arg-type]


def test_the_table_of_pairs_marks_significant_differences_and_says_why_a_pair_was_not_tested() -> None:
    dice = {"A": [(0.5 - n / 100,) * 2 for n in range(8)], "B": [(0.6,) * 2] * 8, "C": [(0.6,) * 2] * 8}
    table = paired_table(paired_tests(two_organs(dice), "dice"), "dice")
    assert [row.title for row in table.rows] == ["A − B", "A − C", "B − C"]
    assert cells(table, "A − B")["mean difference"] == "−0.135"
    # 2/2⁸ = .0078, times 2 tests
    assert (cells(table, "A − B")["p"], cells(table, "A − B")["p, corrected"]) == ("0.008", "0.016")
    assert best(table, "A − B") == {"p, corrected"}
    assert cells(table, "B − C") == {
        "cases": "8",
        "mean difference": "0.000",
        "95 % interval": "0.000 to 0.000",
        "p": "",
        "p, corrected": "",
        "remark": "all values are equal",
    }
    assert table.notes == ()


def test_the_table_of_pairs_warns_if_no_corrected_p_can_be_small() -> None:
    table = paired_table(paired_tests(results(("A", "B", "C"), cases=6), "dice"), "dice")
    (note,) = table.notes
    assert "With 3 tests" in note
    assert "below 0.094" in note


def test_the_table_of_intervals_has_a_row_per_variant() -> None:
    found = two_organs({"A": [(0.7, 0.7)] * 4, "D": [(0.5, 0.7)]})
    table = interval_table(estimates(found, "dice"), "dice")
    assert cells(table, "A")["95 % interval"] == "0.700 to 0.700"
    assert cells(table, "D") == {
        "group": "Atlas and strategies",
        "cases": "1",
        "mean ± deviation": "0.600",
        "95 % interval": "",
    }


def test_costs_are_medians_over_the_cases_but_memory_is_the_largest_value() -> None:
    records = [
        record(f"case_{n}", D, [organ(1, 0.5)]).model_copy(
            update={
                "total": Cost(seconds=seconds, peak_mib=mib, watt_hours=None if n == 0 else 0.2),
                "stages": {"warp": Cost(seconds=1.0)} if n < 2 else {"warp": Cost(seconds=3.0), "bend": Cost(seconds=9.0)},
            }
        )
        for n, (seconds, mib) in enumerate([(10.0, 900.0), (30.0, 500.0), (11.0, 700.0)])
    ]
    found = Results(tuple(records), (1,))
    costs = median_costs(found, D)
    assert list(costs) == ["total", "warp", "bend"]
    assert (costs["total"]["seconds"], costs["total"]["peak_mib"], costs["total"]["watt_hours"]) == (11.0, 900.0, 0.2)
    assert (costs["warp"]["seconds"], costs["bend"]["seconds"]) == (1.0, 9.0)
    table = cost_table(found)
    assert [column.title for column in table.columns] == ["stage", "seconds", "peak memory, MiB", "energy, Wh"]
    assert [[cell.text for cell in row.cells] for row in table.rows] == [
        *(["total", "11.0", "900", "0.2000"], ["warp", "1.0", "", ""], ["bend", "9.0", "", ""])
    ]
    assert table.notes == ("Energy: CodeCarbon, estimated.",)


def test_a_table_refuses_rows_of_another_width_and_rows_below_summaries() -> None:
    column = (Column("a"),)
    with pytest.raises(ValueError, match="one cell per column"):
        Table("t", "c", "h", column, (Row("r", ()),))
    with pytest.raises(ValueError, match="last rows"):
        Table("t", "c", "h", column, (Row("r", (Cell(),), summary=True), Row("s", (Cell(),))))
