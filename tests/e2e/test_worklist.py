"""Tests a team's day with a real browser and the real server: from the worklist to an accepted case.

The tests are one story; each continues where the previous one ended. Ana and Ben annotate, and Ria reviews. Each has a browser
of their own, logged in by the login page.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import SimpleITK as sitk

from app.running import server
from e2e import axe
from medsam2_atlas.atlas import ReferenceFiles
from token_files import bearer, token_of, tokens_for
from viewers import FETCHED, with_fetched_viewer

browser = pytest.importorskip("e2e.browser")

pytestmark = [
    pytest.mark.skipif(browser.chromium_program() is None, reason="Chromium is not installed"),
    pytest.mark.skipif(FETCHED is None, reason="the annotator's viewer is not installed: make e2e-tools"),
]

ROLES = {"Ana": "annotator", "Ben": "annotator", "Ria": "reviewer"}
_AT_HEIGHT = """height => {
    const viewport = window.services.cornerstoneViewportService.getCornerstoneViewport('axial');
    return Math.abs(viewport.getCamera().focalPoint[2] - height) < 0.01;
}"""
COMMENT = "The duodenum ends too early. <b>Follow it.</b>"


@dataclass
class Person:
    """A person at a browser.

    Attributes:
        name: the name.
        page: the page of their browser.
        url: the server.
        forbidden: policy violations of their pages, requests to other hosts, and errors of scripts.
        clicks: number of clicks since the worklist was opened.
    """

    name: str
    page: Any
    url: str
    forbidden: list[str]
    clicks: int = 0

    def open(self, path: str = "/") -> None:
        """Opens a page of the server."""
        self.clicks = 0
        self.page.goto(f"{self.url}{path}", wait_until="domcontentloaded")

    def click(self, part: Any) -> None:
        """Clicks, and counts it."""
        part.click()
        self.clicks += 1

    def row(self, case: str) -> Any:
        """Returns the row of a case."""
        return self.page.locator("tr[data-study]").filter(has=self.page.locator(f".name:text-is('{case}')"))

    def part(self, name: str) -> Any:
        """Returns a part of the viewer's panel."""
        return self.page.locator(f'.annotation-panel [data-cy="{name}"]')

    def ready(self) -> None:
        """Waits until the viewer can be used."""
        self.page.locator('.annotation-panel [data-cy="segment-all"]:enabled').wait_for(timeout=90_000)

    def says(self, text: str) -> None:
        """Waits for a message of the viewer."""
        self.part("message").filter(has_text=text).wait_for(timeout=120_000)

    def ask(self, method: str, path: str, **options: Any) -> requests.Response:
        """Sends a request of a script of this person."""
        return requests.request(method, f"{self.url}{path}", headers=bearer(token_of(self.name)), timeout=60, **options)


@dataclass
class Team:
    """The people of the story, and the CT of all cases."""

    ana: Person
    ben: Person
    ria: Person
    image: Path


@pytest.fixture(scope="module")
def team(short_files: ReferenceFiles, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    assert FETCHED is not None
    folder = tmp_path_factory.mktemp("worklist")
    studies = folder / "studies"
    studies.mkdir()
    for name in ("case-1", "case-2", "case-3"):
        shutil.copy(short_files.image, studies / f"{name}.nii.gz")
    tokens = tokens_for(folder / "tokens.yaml", ROLES)
    conf = {"learning": "false", "server_tokens": str(tokens), "server_review": "true"}
    with ExitStack() as opened:
        environment = with_fetched_viewer(FETCHED)
        client = opened.enter_context(server(studies, folder / "server", conf, environment, token_of("Ria"), anew=True))
        url = client.get_server_url().rstrip("/")
        first = opened.enter_context(browser.browser_page())
        people = {}
        for name in ROLES:
            context = first.context.browser.new_context(viewport={"width": 1600, "height": 900})
            page = context.new_page()
            page.route(lambda address: not browser._OWN.match(address), lambda route: route.abort())
            page.set_default_timeout(60_000)
            people[name] = Person(name, page, url, browser.forbidden(page))
            page.on("pageerror", lambda error, seen=people[name].forbidden: seen.append(f"error: {error}"))
        yield Team(*people.values(), image=short_files.image)
        assert [found for person in people.values() for found in person.forbidden] == []


def test_a_login_leads_back_to_the_filters_that_were_asked_for(team: Team) -> None:
    for person in (team.ana, team.ben, team.ria):
        person.open("/?state=new&sort=patient")
        person.page.wait_for_url("**/login?next=**")
        person.page.get_by_label("Name").fill(person.name)
        person.page.get_by_label("Token or password").fill(token_of(person.name))
        person.page.get_by_role("button", name="Log in").click()
        person.page.wait_for_url("**/?state=new&sort=patient")
        person.page.get_by_text("1–3 of 3 cases").wait_for()
        assert person.name in person.page.locator("#user").inner_text()


@pytest.mark.skipif(not axe.SCRIPT.is_file(), reason="axe-core is not installed: make e2e-tools")
def test_pages_and_the_login_have_no_serious_accessibility_problem(team: Team) -> None:
    page = team.ana.page
    for path in ("/", "/figures", "/compare?study=case-1", "/logout"):
        team.ana.open(path)
        page.locator("#user strong, button").first.wait_for()
        assert axe.violations(page) == [], path
    stranger = team.ben.page.context.browser.new_page()
    stranger.goto(f"{team.ana.url}/login")
    for scheme in ("light", "dark"):
        stranger.emulate_media(color_scheme=scheme)
        assert axe.violations(stranger) == []
    stranger.close()


def test_new_cases_have_pictures_and_one_action(team: Team) -> None:
    team.ana.open()
    row = team.ana.row("case-1")
    row.wait_for()
    assert row.locator(".action").all_inner_texts() == ["Segment"]
    team.ana.page.wait_for_function("() => [...document.querySelectorAll('.picture img')].every(one => one.naturalWidth > 50)")
    assert team.ana.page.locator("#progress-text").inner_text().startswith("0 of 3 cases")
    assert team.ana.page.locator("#next-reason").inner_text()


def test_three_clicks_lead_from_the_first_page_to_a_submitted_case(team: Team) -> None:
    ana = team.ana
    ana.open()
    ana.page.locator("#next-reason").filter(has_text=re.compile(r"\w")).wait_for()
    reason = ana.page.locator("#next-reason").inner_text()
    ana.click(ana.page.locator("#next"))
    ana.page.wait_for_url("**/ohif/annotate?**")
    ana.ready()
    assert ana.part("case-title").inner_text() == "case-1"
    assert ana.part("why").inner_text() == f"Why this case: {reason}"
    ana.click(ana.part("segment-all"))
    ana.says("Segmented by")
    assert ana.clicks == 2  # 15 organs
    ana.click(ana.part("submit"))
    ana.says("Submitted as version 1")
    assert ana.clicks == 3


def test_submit_and_next_opens_the_next_case_which_others_see_is_taken(team: Team) -> None:
    ana, ben = team.ana, team.ben
    ana.part("submit-next").click()
    ana.page.wait_for_url("**/ohif/annotate?**")
    ana.page.locator(".annotation-panel [data-cy=case-title]:text-is('case-2')").wait_for(timeout=90_000)
    ana.ready()
    assert ana.part("why").inner_text().startswith("Why this case: ")
    ben.open()
    row = ben.row("case-2")
    row.get_by_text("Ana has it open since").wait_for()
    assert "in work" in row.inner_text()
    row.locator(".action").click()
    taken = ben.page.get_by_role("dialog", name="case-2 is taken")
    assert "Ana" in taken.inner_text()
    taken.get_by_role("button", name="Look at it").click()
    ben.page.wait_for_url("**/ohif/annotate?**")
    ben.ready()
    assert ben.part("other-person").inner_text().startswith("Ana has this case open since ")
    assert not ana.part("other-person").is_visible()


def test_a_second_person_gets_another_case(team: Team) -> None:
    ben = team.ben
    ben.part("worklist").click()
    ben.page.locator("#next:enabled").click()
    ben.page.wait_for_url("**/ohif/annotate?**")
    ben.ready()
    assert ben.part("case-title").inner_text() == "case-3"


def test_a_reviewer_returns_the_case_with_a_comment(team: Team) -> None:
    ria = team.ria
    ria.open("/?state=waits+for+review")
    row = ria.row("case-1")
    assert row.locator(".action").inner_text() == "Review"
    row.get_by_label("More about case-1").click()
    ria.page.get_by_role("dialog").get_by_role("button", name="Return …").click()
    ria.page.get_by_label("What should Ana change?").fill(COMMENT)
    ria.page.get_by_role("button", name="Return the case").click()
    ria.page.get_by_text("case-1 was returned to Ana.").wait_for()
    ria.page.get_by_text("No case matches").wait_for()


def test_the_author_reads_the_comment_corrects_the_case_and_submits_it(team: Team) -> None:
    ana = team.ana
    ana.open()
    assert COMMENT in ana.row("case-1").inner_text()
    assert ana.page.locator("#cases .name").first.inner_text() == "case-1"  # returned cases come first
    ana.page.locator("#next-reason").filter(has_text=re.compile(r"\w")).wait_for()
    ana.page.locator("#next").click()
    ana.page.wait_for_url("**/ohif/annotate?**")
    ana.ready()
    assert ana.part("case-title").inner_text() == "case-1"
    assert ana.part("comment").inner_text() == f"Ria returned this case: {COMMENT}"
    ana.part("submit").click()
    ana.says("stays returned")  # nothing was corrected
    panel = ana.page.locator(".annotation-panel")
    panel.evaluate("panel => { panel.scrollTop = panel.scrollHeight; }")
    assert ana.part("message").bounding_box()["y"] >= panel.bounding_box()["y"], "messages stay in view"
    ana.part("organ-spleen").click()
    ana.part("tool-brush").click()
    frame = ana.page.locator('[data-viewportid="axial"] canvas').first.bounding_box()
    x, y = frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2
    ana.page.mouse.move(x - 60, y)
    ana.page.wait_for_timeout(400)
    ana.page.mouse.down()
    ana.page.mouse.move(x + 60, y, steps=6)
    ana.page.mouse.up()
    ana.part("draft").filter(has_text="kept on the server").wait_for()
    ana.part("submit").click()
    ana.says("Submitted as version 2")
    ana.part("comment").wait_for(state="hidden")


def test_the_reviewer_accepts_the_case_in_the_viewer(team: Team) -> None:
    ria = team.ria
    ria.open()
    ria.row("case-1").locator(".action").click()
    ria.page.wait_for_url("**/ohif/annotate?**")
    ria.ready()
    ria.part("accept").click()
    ria.says("The case was accepted.")
    ria.part("worklist").click()
    row = ria.row("case-1")
    row.wait_for()
    assert "signed off" in row.inner_text()
    assert row.locator(".action").inner_text() == "View"
    ria.page.get_by_text("1 of 3 cases").wait_for()


def test_label_maps_are_compared_and_a_link_shows_the_slice_in_the_viewer(team: Team) -> None:
    ria = team.ria
    ria.open("/compare?study=case-1&first=final/2&second=unet_3d/1")
    link = ria.page.locator("#table tbody tr").filter(has_text="Spleen").locator("a").first
    link.wait_for()
    assert ria.page.locator("#heading").inner_text() == "case-1"
    shown = int(link.inner_text()) - 1  # links count from 0
    assert f"slice={shown}" in str(link.get_attribute("href"))
    link.click()
    ria.page.wait_for_url(f"**/ohif/annotate?**slice={shown}")
    ria.ready()
    grid = sitk.DICOMOrient(sitk.ReadImage(str(team.image)), "LPS")
    assert shown != grid.GetSize()[2] // 2, "the viewer would show this slice anyway"
    ria.page.wait_for_function(_AT_HEIGHT, arg=grid.TransformIndexToPhysicalPoint((0, 0, shown))[2])


def test_the_figures_count_the_accepted_case(team: Team) -> None:
    ria = team.ria
    ria.open("/figures")
    ria.page.locator("#cards strong").first.wait_for()
    assert re.match(r"[01]\n", ria.page.locator("#cards").inner_text())  # counted in the background


def test_filters_sorting_and_keyboard_work_on_the_real_list(team: Team) -> None:
    ria = team.ria
    ria.open("/?q=case-2")
    ria.page.get_by_text("1 case", exact=False).first.wait_for()
    assert ria.page.locator("#cases .name").all_inner_texts() == ["case-2"]
    ria.page.locator("#clear").click()
    ria.page.get_by_text("1–3 of 3 cases").wait_for()
    for expected in (["case-1", "case-2", "case-3"], ["case-3", "case-2", "case-1"]):
        ria.page.locator('th[data-sort="patient"] button').click()
        ria.page.locator(f"#cases tbody tr:first-child .name:text-is('{expected[0]}')").wait_for()
        assert ria.page.locator("#cases .name").all_inner_texts() == expected
    ria.page.keyboard.press("Escape")
    ria.page.evaluate("document.activeElement.blur()")
    ria.page.keyboard.press("j")
    ria.page.keyboard.press("i")
    ria.page.get_by_role("dialog", name="case-3").wait_for()


def test_logging_out_ends_the_session_and_the_next_request_asks_to_log_in(team: Team) -> None:
    ben = team.ben
    ben.open()
    ben.page.get_by_role("link", name="Log out").click()
    ben.page.get_by_role("button", name="Log out").click()
    ben.page.wait_for_url("**/login")
    ben.open("/figures?days=90")
    ben.page.wait_for_url("**/login?**")
    assert ben.page.url.endswith("/login?next=%2Ffigures%3Fdays%3D90")
