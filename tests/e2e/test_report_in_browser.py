"""A report in a real browser, opened from disk."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from made_report import HOSTILE, report_parts
from medsam2_atlas.experiment.reporting.page import write_report

browser = pytest.importorskip("e2e.browser")
pytestmark = pytest.mark.skipif(browser.chromium_program() is None, reason="Chromium is not installed")

_ORGANS = "[...document.querySelectorAll('#organs ~ .scroll tbody')[0].rows].map(row => row.cells[0].textContent)"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, list[str]]]:
    """Yields a page with the report, and a list of its policy violations and of requests to other files."""
    file = tmp_path_factory.mktemp("report") / "report.html"
    write_report(report_parts(), file)
    own = re.compile(f"^({re.escape(file.as_uri())}$|data:)")
    with browser.browser_page(own) as page:
        forbidden = browser.forbidden(page, own)
        page.on("pageerror", lambda error: forbidden.append(str(error)))
        page.on("dialog", lambda dialog: forbidden.append(dialog.message))
        page.goto(file.as_uri())
        yield page, forbidden


def column(page: Any, name: str) -> list[str]:
    """Returns the texts of a column of the table of cases, from top to bottom."""
    return page.evaluate(
        """name => {
            const table = document.querySelector('#cases ~ .scroll table');
            const at = [...table.tHead.rows[0].cells].findIndex(cell => cell.textContent === name);
            return [...table.tBodies[0].rows].map(row => row.cells[at].textContent);
        }""",
        name,
    )


def test_all_pictures_are_drawn(report: tuple[Any, list[str]]) -> None:
    page, _ = report
    sizes = page.evaluate("Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth, () => 0)))")
    assert len(sizes) == len(report_parts().plots) + 1 + 2 + 4  # curves, costs, pictures
    assert min(sizes) > 0


def test_a_click_sorts_by_number_and_a_second_click_reverses(report: tuple[Any, list[str]]) -> None:
    page, _ = report
    header = page.locator("#cases ~ .scroll th", has_text="Mean Dice")
    assert header.get_attribute("aria-sort") == "none"
    header.click()
    dice = [float(value) for value in column(page, "Mean Dice")]
    assert len(dice) == 12
    assert dice == sorted(dice)
    assert header.get_attribute("aria-sort") == "ascending"
    header.click()
    assert [float(value) for value in column(page, "Mean Dice")] == dice[::-1]
    assert header.get_attribute("aria-sort") == "descending"


def test_enter_and_space_sort_as_a_click_does(report: tuple[Any, list[str]]) -> None:
    page, _ = report
    button = page.locator("#cases ~ .scroll th button", has_text="Case")
    button.focus()
    page.keyboard.press("Enter")
    names = column(page, "Case")
    assert names[:4] + names[-4:] == [HOSTILE.replace("\u202e", "\\u202e")] * 4 + ["case_01"] * 4
    page.keyboard.press("Space")
    assert column(page, "Case")[:4] == ["case_01"] * 4
    assert page.locator("#cases ~ .scroll th[aria-sort=descending]").count() == 1  # the earlier column is no longer marked


def test_columns_below_grouped_headers_are_sorted_and_dashes_and_means_stay_last(report: tuple[Any, list[str]]) -> None:
    page, _ = report
    headers = page.locator("#organs ~ .scroll").first.locator("th button")
    assert headers.all_inner_texts() == ["Organ", "unet_2d", "unet_3d", "D"]  # not the groups
    headers.nth(2).click()
    assert page.evaluate(_ORGANS) == ["Liver", "Spleen", "Aorta"]
    for _ in range(2):
        headers.nth(3).click()
    assert page.evaluate(_ORGANS) == ["Spleen", "Aorta", "Liver"]
    headers.nth(0).click()
    assert page.evaluate(_ORGANS) == ["Aorta", "Liver", "Spleen"]
    assert page.locator("#organs ~ .scroll tfoot").first.inner_text().startswith("Mean")


@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_is_never_wider_than_the_screen(report: tuple[Any, list[str]], width: int) -> None:
    page, _ = report
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_plots_and_text_follow_a_dark_screen(report: tuple[Any, list[str]]) -> None:
    page, _ = report
    ink = "getComputedStyle(document.body).color"
    page.emulate_media(color_scheme="light")
    light = page.evaluate(ink)
    page.emulate_media(color_scheme="dark")
    assert (light, page.evaluate(ink)) == ("rgb(31, 41, 51)", "rgb(230, 234, 238)")


def test_details_are_open_in_print(report: tuple[Any, list[str]]) -> None:
    page, _ = report
    assert page.locator("details:not([open])").count() > 0
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0


def test_nothing_was_requested_blocked_or_run(report: tuple[Any, list[str]]) -> None:
    page, forbidden = report
    page.evaluate("fetch('https://example.org/').catch(() => 0)")  # shows that violations are noticed
    assert [one for one in forbidden if "example.org" not in one] == []
    assert any("example.org" in one for one in forbidden)
