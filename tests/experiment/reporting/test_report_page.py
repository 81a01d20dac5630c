"""The report of an experiment as HTML."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from made_report import HOSTILE, report_parts
from made_results import made_with, results
from medsam2_atlas.experiment import Results
from medsam2_atlas.experiment.reporting.page import ReportParts, report_page, write_report

ATTRIBUTES = {
    *("alt", "aria-label", "charset", "class", "colspan", "content", "data-value", "href", "http-equiv", "id", "lang", "name"),
    *("rowspan", "scope", "src", "tabindex"),
}
"""All attributes of a report."""


class Reader(HTMLParser):
    """Collects tags, anchors, links, attributes and visible text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self.attributes: set[str] = set()
        self.headings: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            self.attributes.add(name)
            {"id": self.ids, "href": self.links, "src": self.sources}.get(name, []).append(value or "")

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] != ["style"]:
            self.text += data
        if self.tags[-1:] == ["h2"] and data.strip():
            self.headings.append(data.strip())


@pytest.fixture(scope="module")
def page() -> str:
    return report_page(report_parts())


def test_a_name_from_outside_is_text_wherever_it_appears(page: str) -> None:
    reader = Reader(page)
    assert reader.tags.count("script") == 1
    assert reader.attributes <= ATTRIBUTES  # a quotation mark in a name would start new ones
    assert "\u202e" not in page
    shown = HOSTILE.replace("\u202e", "\\u202e")
    for start in ("left out ", "why ", "note ", "unreadable ", "fusion.yaml: ", "estimated ", "cannot be drawn. ", "Report "):
        assert f"{start}{shown}" in reader.text, start


def test_the_page_has_no_outside_parts_and_nothing_that_its_policy_blocks(page: str) -> None:
    reader = Reader(page)
    assert all(source.startswith("data:image/") for source in reader.sources)
    assert all(link.startswith("#") for link in reader.links)
    assert not {name for name in reader.attributes if name == "style" or name.startswith("on")}
    assert not {"link", "iframe", "object", "base", "form"} & set(reader.tags)


def test_every_link_has_its_anchor_and_every_anchor_is_unique(page: str) -> None:
    reader = Reader(page)
    assert {link.removeprefix("#") for link in reader.links} <= set(reader.ids)
    assert len(set(reader.ids)) == len(reader.ids)


def test_all_sections_appear_in_order(page: str) -> None:
    assert [heading for heading in Reader(page).headings if heading != "↕"] == [
        "Summary",
        "Dice per organ",
        "Paired tests",
        "Plots",
        "Sensitivity",
        "Cost and energy",
        "All cases",
        "Best, median and worst cases",
        "Missing results",
        "Versions and data",
    ]


def test_warnings_come_before_the_summary(page: str) -> None:
    top = Reader(page.partition('id="summary"')[0]).text
    assert "Research use only; not a medical device." in top
    assert "demo weights (D)" in top
    assert "reference-3 reads the ground truth" in top
    assert "1 result is missing" in top


def test_results_of_the_fast_mode_are_named_at_the_top() -> None:
    found = results(("D", "unet_3d"), cases=1)
    fast = [r.model_copy(update={"report": {"mode": "fast"}}) if r.variant.segmenter == "D" else r for r in found.records]
    page = report_page(ReportParts(Results(tuple(fast), found.organs), made_with()))
    assert "D: MedSAM2 ran in the fast mode" in Reader(page.partition('id="summary"')[0]).text
    assert "fast mode" not in report_page(ReportParts(found, made_with()))


def test_sections_without_content_and_their_links_are_omitted() -> None:
    page = report_page(ReportParts(results(("D",), cases=1), made_with()))
    reader = Reader(page)
    assert set(reader.links) == {"#summary", "#cases", "#made-with"}
    assert "reads the ground truth" not in reader.text.partition("Summary")[2].replace("do not read the ground truth", "")


def test_a_report_without_any_result_can_be_written() -> None:
    page = report_page(ReportParts(Results((), (6,), {"a": "is broken."}), made_with()))
    assert "is broken." in page


def test_unknown_numbers_are_sorted_last() -> None:
    found = results(("D",), cases=1)
    (one,) = found.records
    unknown = one.model_copy(update={"total": one.total.model_copy(update={"seconds": None})})
    page = report_page(ReportParts(Results((unknown,), found.organs), made_with()))
    assert page.count('<td data-value="">–</td>') == 2  # in the summary and in the table of cases


def test_the_same_parts_give_the_same_file(tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        write_report(report_parts(), tmp_path / name)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert not re.search(r"20\d\d-\d\d-\d\d", (tmp_path / "a.html").read_text(encoding="utf-8"))
