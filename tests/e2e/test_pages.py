"""Tests the team's pages in a real browser with pretended cases: what they show, their errors, shortcuts and accessibility."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs

import pytest

from e2e import axe
from e2e.pretended_team import HOSTILE, Team, pretended, row

browser = pytest.importorskip("e2e.browser")

pytestmark = pytest.mark.skipif(browser.chromium_program() is None, reason="Chromium is not installed")

FIGURES: dict[str, Any] = {
    "total": {"signed_off": 11, "minutes": 5.1, "timed": 7, "agreement": 0.9, "pairs": 1},
    "days": [{"day": f"2026-11-{day:02d}", "signed_off": day % 4} for day in range(1, 28)],
    "people": [{"person": "Ana Silva", "signed_off": 9, "minutes": 6.2}, {"person": HOSTILE, "signed_off": 2, "minutes": None}],
    "organs": [
        {"organ": "liver", "minutes": 0.4, "edited_ml": 3.5, "edited_voxels": 1200, "dice": 0.97},
        {"organ": "left_adrenal_gland", "minutes": None, "edited_ml": 12.25, "edited_voxels": 340, "dice": 0.55},
    ],
    "trend": [
        {"week": f"2026-11-{day:02d}", "model": model, "dice": {"liver": 0.9}, "mean": 0.7 + day / 200, "cases": 4}
        | {"began_with_it": 3 if model == "medsam2_atlas" else 0, "start_unknown": 1}
        for day in (2, 9, 16)
        for model in ("medsam2_atlas", "unet_3d")
    ],
    "agreement": [
        {
            "study": "a",
            "people": ["Ana Silva", "Kim Lee"],
            "dice": {"liver": 0.95, "duodenum": 0.6},
            "mean": 0.9,
            "same_start": True,
        }
    ],
}
VERSIONS = [
    {"tag": "final", "version": 2, "author": "Ana Silva", "time": "2026-11-27T10:00:00+00:00"},
    {"tag": "medsam2_atlas", "version": 1, "author": "", "time": "2026-11-26T10:00:00+00:00"},
    {"tag": "unet_3d", "version": 1, "author": "", "time": "2026-11-25T10:00:00+00:00"},
]
TEAM = Team([])


@pytest.fixture(scope="module")
def opened() -> Iterator[tuple[Any, str, list[str]]]:
    with pretended(TEAM) as url, browser.browser_page() as page:
        forbidden = browser.forbidden(page)
        page.on("pageerror", lambda error: forbidden.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (forbidden.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.set_default_timeout(10_000)
        yield page, url, forbidden


@pytest.fixture
def page(opened: tuple[Any, str, list[str]]) -> Iterator[Any]:
    """Returns a page; its server has 60 cases. No script of another origin, no violated policy and no error may occur."""
    found, _, forbidden = opened
    forbidden.clear()
    TEAM.__dict__.update(Team([row(n) for n in range(1, 61)], figures=FIGURES, versions=VERSIONS).__dict__)
    found.set_viewport_size({"width": 1440, "height": 900})
    found.emulate_media(color_scheme="light")
    yield found
    assert not forbidden


@pytest.fixture
def url(opened: tuple[Any, str, list[str]]) -> str:
    return opened[1]


def names(page: Any) -> list[str]:
    """Returns the names of the shown cases."""
    page.locator("#cases[aria-busy=false]").wait_for(state="attached")
    found: list[str] = page.locator("#cases .name").all_inner_texts()
    return found


def go(page: Any, url: str, query: str = "") -> None:
    page.goto(f"{url}/{query}")
    page.locator("#progress-text strong").wait_for()


def test_a_row_shows_what_is_known_about_a_case_and_one_action(page: Any, url: str) -> None:
    go(page, url)
    shown = page.locator("tr[data-study]").filter(has_text="P-0002").first
    text = " ".join(shown.inner_text().split())
    for part in ("Abdomen, non-contrast", "2026-03-03", "in work", "Ana Silva has it open since", "gallbladder 0.21", "0.69"):
        assert part in text
    assert shown.locator(".action").all_inner_texts() == ["Correct"]
    assert shown.locator(".name").get_attribute("title").endswith("0002")
    assert "1.2.826" not in text  # a UID is for programs
    returned = page.locator("tr[data-study]").filter(has_text="P-0004")
    assert "Ben Okafor returned it: The duodenum ends too early." in returned.inner_text()
    assert page.locator("#demo").is_visible()
    assert page.locator("#progress-text").inner_text().startswith("8 of 60 cases")


def test_filters_sorting_and_pages_are_kept_in_the_address(page: Any, url: str) -> None:
    go(page, url)
    assert len(names(page)) == 50
    page.locator('[data-cy="state-in-work"]').click()
    page.wait_for_url("**/?state=in+work")
    page.get_by_text("1–9 of 9 cases").wait_for()
    page.locator("#organ").select_option("gallbladder")
    page.wait_for_url("**organ=gallbladder")
    page.get_by_text("1–1 of 1 case").wait_for()
    page.go_back()
    page.get_by_text("1–9 of 9 cases").wait_for()
    page.reload()
    page.get_by_text("1–9 of 9 cases").wait_for()
    assert page.locator('[data-cy="state-in-work"]').get_attribute("aria-pressed") == "true"
    page.locator("#clear").click()
    page.get_by_text("1–50 of 60 cases").wait_for()
    page.keyboard.press("]")
    page.get_by_text("51–60 of 60 cases").wait_for()
    assert "page=2" in page.url
    page.locator("#search").fill("no such case")
    page.get_by_text("No case matches").wait_for()
    page.go_back()
    page.get_by_text("1–50 of 60 cases").wait_for()
    assert page.locator("#search").input_value() == "", "the search is over, also in its field"
    page.locator("#search").fill("no such case")
    page.get_by_text("No case matches").wait_for()
    page.locator('[data-cy="clear-empty"]').click()
    page.get_by_text("1–50 of 60 cases").wait_for()


def test_columns_are_sorted_both_ways_and_say_so(page: Any, url: str) -> None:
    go(page, url)
    header = page.locator('th[data-sort="patient"]')
    for order, last in (("ascending", False), ("descending", True)):
        header.get_by_role("button").click()
        page.locator(f'th[data-sort="patient"][aria-sort="{order}"]').wait_for()
        page.locator("#cases tbody tr:first-child").get_by_text("P-0060" if last else "P-0001").wait_for()
        assert names(page) == sorted(names(page), reverse=last)
    assert page.locator('th[aria-sort="none"]').count() == 6
    page.locator("#priority").click()
    page.wait_for_url(f"{url}/")


def test_the_keyboard_searches_moves_and_opens(page: Any, url: str) -> None:
    go(page, url)
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.type("nj")
    page.get_by_text("No case matches").wait_for()
    page.locator("#search").fill("")
    page.keyboard.press("Escape")
    page.get_by_text("1–50 of 60 cases").wait_for()
    for key in ("j", "ArrowDown", "k", "j"):
        page.keyboard.press(key)
    assert page.evaluate("document.activeElement.dataset.study").endswith("0002")
    page.keyboard.press("?")
    page.get_by_role("dialog", name="Keyboard shortcuts").wait_for()
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.dataset.study").endswith("0002")  # the focus returns
    page.keyboard.press("Enter")
    page.wait_for_url("**/ohif/annotate?StudyInstanceUIDs=2")
    assert ("POST", "/worklist/claim") in [asked[:2] for asked in TEAM.asked]
    go(page, url)
    page.keyboard.press("n")
    page.wait_for_url("**/ohif/annotate?StudyInstanceUIDs=1")
    assert "pancreas and duodenum" in page.evaluate("sessionStorage.getItem('medsam2_atlas.next')")


def test_a_case_that_another_person_has_is_not_opened_without_asking(page: Any, url: str) -> None:
    go(page, url)
    TEAM.held[TEAM.rows[0]["study"]] = "Ana Silva"
    page.get_by_label("Correct P-0001", exact=True).click()
    dialog = page.get_by_role("dialog", name="P-0001 is taken")
    assert re.search(r"Ana Silva has this case open since \d\d:\d\d\.", dialog.inner_text())
    dialog.get_by_text("Cancel").click()
    assert page.url == f"{url}/"
    page.get_by_label("Correct P-0001", exact=True).click()
    page.get_by_role("button", name="Look at it").click()
    page.wait_for_url("**/ohif/annotate?StudyInstanceUIDs=1")


def test_times_of_last_night_are_shown_as_hours_after_midnight(page: Any, url: str) -> None:
    go(page, url)
    page.clock.set_fixed_time("2026-11-28T00:05:00")
    script = """async times => { const { shortTime } = await import('./page/times.js'); return times.map(shortTime); }"""
    times = ["2026-11-28T00:01:00", "2026-11-27T23:50:00", "2026-11-27T11:50:00", "2025-11-27T23:50:00", "", "x"]
    assert page.evaluate(script, times) == ["00:01", "23:50", "27 Nov", "27 Nov 2025", "", ""]


def test_a_reviewer_accepts_returns_assigns_and_releases(page: Any, url: str) -> None:
    go(page, url)
    for button, fill, said in (
        ("Return …", ("What should", "Follow the duodenum."), "P-0003 was returned to Ana Silva."),
        ("Accept", None, "P-0003 was accepted."),
        ("Assign …", ("Person (", "Ben Okafor"), "P-0003 is assigned to Ben Okafor."),
    ):
        page.get_by_label("More about P-0003", exact=True).click()
        page.get_by_role("dialog").get_by_text(button, exact=True).click()
        if fill:
            page.get_by_label(fill[0]).fill(fill[1])
            page.locator("dialog button[type=submit]").click()
        page.get_by_text(said).wait_for()
    page.get_by_label("More about P-0002", exact=True).click()
    page.get_by_text("Release the claim").click()
    page.get_by_text("P-0002 is free again.").wait_for()
    left = {"claimed": {"person": "Cy Ode", "since": "2026-11-27T10:12:00+00:00"}}  # had it open, too
    page.route("**/worklist/claim?*", lambda route: route.fulfill(json=left))
    page.get_by_label("More about P-0002", exact=True).click()
    page.get_by_text("Release the claim").click()
    page.get_by_text("P-0002 is still claimed by Cy Ode.").wait_for()
    page.unroute("**/worklist/claim?*")
    study = TEAM.rows[2]["study"]
    assert TEAM.asked == [
        ("POST", f"/datastore/label/return?label={study}&tag=final&version=1", '{"comment":"Follow the duodenum."}'),
        ("POST", f"/datastore/label/accept?label={study}&tag=final&version=1", ""),
        ("POST", "/worklist/assign", f'{{"study":"{study}","person":"Ben Okafor"}}'),
        ("DELETE", f"/worklist/claim?study={TEAM.rows[1]['study']}", ""),
    ]


def test_an_annotator_is_not_offered_what_only_reviewers_may_do(page: Any, url: str) -> None:
    TEAM.summary = {"may": {"upload": False, "assign": False, "review": False}}
    go(page, url)
    page.get_by_label("More about P-0003", exact=True).click()
    assert page.get_by_role("dialog").locator(".buttons").first.inner_text().split("\n")[0] == "Open in the viewer"
    assert (
        page.get_by_text("Return …").count() == page.get_by_text("Assign …").count() == page.get_by_text("Accept").count() == 0
    )
    assert not page.locator("#upload").is_visible()


def test_errors_are_shown_in_words_with_a_retry(page: Any, url: str) -> None:
    error = {"error": {"message": "The studies folder cannot be read.", "remedy": "Ask the operator."}}
    TEAM.answers["/worklist/cases"] = (503, error)
    page.goto(f"{url}/")
    page.get_by_text("The cases cannot be loaded. The studies folder cannot be read. Ask the operator.").wait_for()
    TEAM.answers.clear()
    page.get_by_role("button", name="Try again").click()
    page.get_by_text("1–50 of 60 cases").wait_for()
    assert not page.locator("#problem").is_visible()
    TEAM.answers["/worklist/next"] = (503, error)
    page.locator("#next").click()
    page.locator("#problem").get_by_text("cannot be read").wait_for()


def test_an_expired_session_leads_to_the_login_and_back_to_the_same_filters(page: Any, url: str) -> None:
    TEAM.answers["/worklist/summary"] = (401, {"error": {"message": "You are not logged in."}})
    page.goto(f"{url}/?state=in+work&page=2")
    page.wait_for_url(f"{url}/login?**")
    assert page.url == f"{url}/login?next=%2F%3Fstate%3Din%2Bwork%26page%3D2"


def test_empty_lists_say_what_to_do(page: Any, url: str) -> None:
    for changes, text in (
        ({"pacs": True}, "medsam2-atlas dicom send FOLDER URL"),
        ({"may": {"upload": True, "assign": True, "review": True}}, "Drop CTs on the area above"),
        ({}, "Ask an admin of this server"),
    ):
        TEAM.rows, TEAM.summary = [], changes
        page.goto(f"{url}/")
        page.locator("#empty").get_by_text(text).wait_for()
    TEAM.rows = [row(5), row(12)]  # both are signed off
    go(page, url)
    page.get_by_text("All cases are signed off.").wait_for()
    assert page.locator("#next").is_disabled()


def test_a_pacs_that_cannot_be_listed_is_not_called_empty(page: Any, url: str) -> None:
    problem = "The PACS does not answer."
    TEAM.rows, TEAM.summary = [], {"pacs": True, "pacs_problem": problem}
    page.goto(f"{url}/")
    page.locator("#empty").get_by_text("The CTs of the PACS cannot be listed").wait_for()
    assert f"{problem} The CTs appear here" in page.locator("#empty").inner_text()
    assert page.get_by_text("dicom send").count() == 0
    assert not page.locator("#pacs-problem").is_visible()
    TEAM.rows = [row(1)]
    go(page, url)
    page.get_by_text(f"{problem} The list may be out of date.").wait_for()
    assert names(page) == ["P-0001"]
    assert not axe.SCRIPT.is_file() or axe.violations(page) == []
    TEAM.summary = {"pacs": True}
    page.locator("#pacs-problem").wait_for(state="hidden")  # the page asks again soon


def test_own_jobs_show_their_progress_and_can_be_cancelled(page: Any, url: str) -> None:
    job = {"id": "a1", "kind": "unet_3d", "subject": "P-0003", "state": "running", "stage": "network", "share": 0.4}
    TEAM.summary = {"queue": {"running": 1, "waiting": 2, "yours": [{**job, "seconds_left": 40.0}]}}
    go(page, url)
    assert "1 running, 2 waiting" in page.locator(".queue").inner_text()
    assert "network · about 40 s left" in page.locator("#jobs").inner_text()
    page.get_by_label("Cancel unet_3d on P-0003").click()
    page.get_by_text("The job was cancelled.").wait_for()
    assert TEAM.asked[0][:2] == ("DELETE", "/jobs/a1")


def test_own_jobs_that_ended_early_are_shown_with_the_reason_until_they_are_repeated(page: Any, url: str) -> None:
    job = {"kind": "unet_3d", "state": "cancelled", "ended": 1.0}
    gone = {**job, "id": "a1", "subject": "P-0003", "reason": "nobody has followed it for 10 s"}
    failed = {**job, "id": "a2", "subject": "P-0004", "state": "failed", "error": "The memory is full."}
    own, done = {**job, "id": "a3", "subject": "P-0005"}, {**job, "id": "a4", "subject": "P-0006", "state": "done"}
    repeated = [{**gone, "id": "a5", "subject": "P-0007"}, {**done, "id": "a6", "subject": "P-0007"}]
    TEAM.summary = {"queue": {"running": 0, "waiting": 0, "yours": [gone, failed, own, done, *repeated]}}
    go(page, url)
    assert page.locator("#jobs li").all_inner_texts() == [
        "unet_3d on P-0003\nThe server has cancelled it: nobody has followed it for 10 s.",
        "unet_3d on P-0004\nFailed: The memory is full.",
    ]


def test_an_own_job_that_failed_or_was_cancelled_can_be_run_again(page: Any, url: str) -> None:
    job = {"kind": "medsam2_atlas", "ended": 1.0, "listed": True, "options": {"organs": "liver,spleen"}}
    gone = {**job, "id": "a1", "subject": "1.2.3", "title": "Doe Jane", "state": "cancelled", "reason": "nobody follows it"}
    failed = {**job, "id": "a2", "subject": "P-0004", "state": "failed", "error": "The memory is full."}
    sent_file = {**failed, "id": "a9", "subject": "upload.nii.gz", "listed": False}
    TEAM.summary = {"queue": {"running": 0, "waiting": 0, "yours": [gone, failed, sent_file]}}
    go(page, url)
    assert page.get_by_label("again on").count() == 2, "an uploaded file is not on the server"
    assert "1.2.3" not in page.locator("#jobs").inner_text(), "a UID is for programs"
    TEAM.answers["/infer/medsam2_atlas"] = (202, {"id": "a3"})
    page.get_by_label("Run medsam2_atlas again on Doe Jane").click()
    page.get_by_text("medsam2_atlas runs again on Doe Jane.").wait_for()
    sent = "/infer/medsam2_atlas?image=1.2.3&wait=false&attended=true&output=json"
    assert [(*one[:2], parse_qs(one[2])) for one in TEAM.asked] == [("POST", sent, {"params": ['{"organs":"liver,spleen"}']})]
    error = {"message": "The queue is full.", "remedy": "Try again in a minute."}
    TEAM.answers["/infer/medsam2_atlas"] = (429, {"error": error})
    page.get_by_label("Run medsam2_atlas again on P-0004").click()
    page.get_by_text("The queue is full. Try again in a minute.").wait_for()


def test_running_a_job_again_queues_one_run_and_keeps_the_keyboard_focus(page: Any, url: str) -> None:
    job = {"kind": "medsam2_atlas", "subject": "P-0004", "listed": True, "options": {}}
    failed = {**job, "id": "b1", "ended": 1.0, "state": "failed", "error": "The memory is full."}
    TEAM.summary = {"queue": {"running": 0, "waiting": 0, "yours": [failed]}}
    TEAM.answers["/infer/medsam2_atlas"] = (202, {"id": "b2"})
    go(page, url)
    page.get_by_label("Run medsam2_atlas again on P-0004").focus()
    queued = {**job, "id": "b2", "state": "queued", "position": 0}
    TEAM.summary = {"queue": {"running": 0, "waiting": 1, "yours": [failed, queued]}}
    page.evaluate("() => { const again = document.activeElement; again.click(); again.click(); }")
    page.locator("[data-cy=cancel-b2]:focus").wait_for()
    assert [method for method, *_ in TEAM.asked] == ["POST"]
    TEAM.summary = {"queue": {"running": 0, "waiting": 0, "yours": []}}
    page.keyboard.press("Enter")
    page.locator("#queue-text:focus").wait_for()


def test_a_hidden_page_asks_for_nothing_until_it_is_shown_unless_a_job_runs(page: Any, url: str) -> None:
    hide = """hidden => {
        Object.defineProperty(document, 'hidden', { get: () => hidden, configurable: true });
        document.dispatchEvent(new Event('visibilitychange'));
    }"""
    asked: list[str] = []
    noted = page.context.new_page()
    noted.on("request", lambda request: asked.append(request.url) if "/worklist/cases" in request.url else None)
    noted.clock.install()
    go(noted, url)
    noted.locator("#next-reason").filter(has_text=re.compile(r"\w")).wait_for()

    def wait(seconds: int) -> int:
        """Returns how often the page asks for the cases in a time."""
        asked.clear()
        for _ in range(seconds):
            noted.clock.run_for(1000)
            noted.wait_for_timeout(10)  # for answers
        return len(asked)

    assert wait(65) >= 2
    noted.evaluate(hide, True)
    assert wait(300) == 0
    asked.clear()
    noted.evaluate(hide, False)
    until_asked(noted, asked)
    assert wait(65) >= 2, "the page goes on"
    job = {"id": "a1", "kind": "unet_3d", "subject": "P-0003", "state": "running", "stage": "network", "share": 0.4}
    TEAM.summary = {"queue": {"running": 1, "waiting": 0, "yours": [{**job, "ended": None}]}}
    assert wait(25) >= 1
    noted.evaluate(hide, True)
    assert wait(60) >= 1, "the server cancels jobs that no page follows"
    noted.close()


def until_asked(page: Any, asked: list[str]) -> None:
    """Waits for a request of a page, whose own clock stands still."""
    for _ in range(200):
        if asked:
            return
        page.wait_for_timeout(20)
    raise AssertionError("the page asks for nothing")


def test_an_admin_segments_all_open_cases_and_everybody_sees_how_far_it_is(page: Any, url: str) -> None:
    TEAM.summary = {"may": {"upload": False, "assign": True, "review": True, "batch": True}}
    go(page, url)
    assert re.fullmatch(r"Segment \d+ open cases", page.locator("#batch-run").inner_text())
    assert page.locator("#batch-model option").all_inner_texts() == ["medsam2_atlas"]  # the other one cannot run
    page.locator("#batch-run").click()
    page.get_by_text("medsam2_atlas segments the cases now.").wait_for()
    assert TEAM.asked[0][:2] == ("POST", "/batch/infer/medsam2_atlas?images=unlabeled")
    state = {"model": "atlas", "ended": False, "total": 120, "kept": 2, "done": 36, "failed": 1, "seconds_left": 600}
    TEAM.summary = {"batch": {"running": True, "state": state}}
    go(page, url)
    assert page.locator("#batch").inner_text() == "atlas: 39 of 120 cases, 1 failed · about 10 min left"
    TEAM.summary = {"batch": {"running": False, "state": state}}
    go(page, url)
    assert not page.locator("#batch").is_visible()


def test_names_from_outside_are_shown_as_text(page: Any, url: str) -> None:
    fields = ("study", "patient", "description", "author", "why", "assigned")
    hostile = dict.fromkeys(fields, HOSTILE) | {
        "comment": {"by": HOSTILE, "time": "", "text": HOSTILE},
        "opened": [HOSTILE],
    }
    TEAM.rows = [row(4, **hostile, problem=HOSTILE, check=[[HOSTILE, 0.2]], claimed={"person": HOSTILE, "since": "x"})]
    TEAM.summary = {"you": {"name": HOSTILE, "role": HOSTILE}, "models": [{"name": HOSTILE, "title": HOSTILE, "mark": HOSTILE}]}
    TEAM.figures = {**FIGURES, "agreement": [{"study": HOSTILE, "people": [HOSTILE], "dice": {HOSTILE: 0.2}, "mean": 0.2}]}
    go(page, url)
    assert names(page) == [HOSTILE]
    page.get_by_label(f"More about {HOSTILE}").click()
    page.get_by_role("dialog", name=HOSTILE).wait_for()
    page.goto(f"{url}/figures")
    page.get_by_text("Agreement between people").wait_for()
    page.locator("#between tbody tr").wait_for()
    assert page.locator("img[src=x]").count() == 0


def test_figures_are_charts_with_words_and_sorted_tables(page: Any, url: str) -> None:
    page.goto(f"{url}/figures")
    page.locator("#per-day svg").wait_for()
    assert page.locator("#per-day svg").get_attribute("aria-label") == "Signed-off cases a day: 11 cases in 27 days"
    assert "unet_3d 0.78 at the end" in page.locator("#trend svg").get_attribute("aria-label")
    first = page.locator("#per-organ tbody tr").first
    assert first.inner_text().split("\t") == ["left adrenal gland", "–", "12.3", "340", "0.550"]
    page.locator("#per-organ").get_by_role("button", name="Dice").click()
    assert first.inner_text().startswith("liver")
    page.locator("#trend-organ").select_option("liver")
    assert "liver: medsam2_atlas 0.90" in page.locator("#trend svg").get_attribute("aria-label")


def test_the_figures_show_totals_over_cases_and_how_many_began_with_the_prediction(page: Any, url: str) -> None:
    page.goto(f"{url}/figures")
    page.locator("#between tbody tr").wait_for()
    cards = [" ".join(text.split()) for text in page.locator("#cards .card").all_inner_texts()]
    assert cards[0] == "11 cases signed off in 27 days"  # and not 42, the sum of the days
    assert cards[2:] == ["5.1 min median active time of 7 cases", "0.90 median Dice between people"]
    page.get_by_text("medsam2_atlas: 9 of 12 cases drawn from its prediction; unknown for 3.").wait_for()
    page.get_by_text("unet_3d: 0 of 12 cases drawn from its prediction; unknown for 3.").wait_for()
    page.get_by_text("measures corrections, not accuracy").wait_for()
    assert "yes" in page.locator("#between tbody tr").inner_text().split("\t")
    TEAM.summary = {"you": {"name": "Kim Lee", "role": "annotator"}}
    page.reload()
    page.get_by_text("median Dice between you and others").wait_for()


def test_a_comparison_shows_the_lowest_dice_first_and_leads_to_the_slice(page: Any, url: str) -> None:
    page.goto(f"{url}/compare?study=a")
    page.locator("#table tbody tr").first.wait_for()
    assert [page.locator(f"#{name}").input_value() for name in ("first", "second")] == ["final/2", "medsam2_atlas/1"]
    dice = [float(text) for text in page.locator("#table tbody td:nth-child(2)").all_inner_texts()]
    assert dice == sorted(dice)
    assert page.locator("#pictures img").count() == 4
    page.locator("#second").select_option("unet_3d/1")
    page.wait_for_url("**second=unet_3d%2F1")
    link = page.locator("#table tbody a").first
    assert link.get_attribute("aria-label") == "Left adrenal gland, slice 13 in the viewer" or link.get_attribute("aria-label")
    link.click()
    page.wait_for_url(re.compile(r"/ohif/annotate\?slice=12$"))
    page.goto(f"{url}/compare")
    page.get_by_text("Choose a case on the").wait_for()


def _fulfill(answer: Any, route: Any) -> None:
    route.fulfill(json=answer)


def test_label_maps_that_differ_in_a_few_voxels_are_not_called_equal(page: Any, url: str) -> None:
    figures = {"dice": 1.0, "first_ml": 1500.0, "second_ml": 1500.0}
    for worst, text in (([12], "Mean Dice 1.000 over 1 organs."), ([], "The two label maps are equal.")):
        send = functools.partial(_fulfill, {"organs": {"1": {**figures, "worst": worst}}})
        page.route("**/annotation/compare?*", send, times=1)
        page.goto(f"{url}/compare?study=a")
        page.locator("#mean").filter(has_text=text).wait_for()


@pytest.mark.skipif(not axe.SCRIPT.is_file(), reason="axe-core is not installed: make e2e-tools")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_have_no_serious_accessibility_problem(page: Any, url: str, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    TEAM.rows[5].update(mine=True)
    job = {"id": "a1", "kind": "unet_3d", "subject": "P-0003", "state": "running", "stage": "network", "share": 0.4}
    TEAM.summary = {
        "queue": {"running": 1, "waiting": 0, "yours": [job]},
        "may": {"upload": True, "assign": True, "review": True},
    }
    for path, part in (
        ("", "#cases tbody tr"),
        ("?q=none", "#empty h2"),
        ("figures", "#trend svg"),
        ("compare?study=a", "#pictures img"),
    ):
        for width in (1440, 640, 360):  # 640: a screen of 1280 pixels at 200 % zoom
            page.set_viewport_size({"width": width, "height": 800})
            page.goto(f"{url}/{path}")
            page.locator(part).first.wait_for()
            assert axe.violations(page) == []
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (path, width)
    page.goto(f"{url}/")
    page.get_by_label("More about P-0003", exact=True).click()
    page.get_by_role("dialog").wait_for()
    assert axe.violations(page) == []


def test_pages_need_no_files_of_other_hosts_and_no_inline_code(page: Any, url: str) -> None:
    for path in ("", "figures", "compare"):
        answer = page.goto(f"{url}/{path}")
        policy = answer.headers["content-security-policy"]
        assert "script-src 'self'; style-src 'self'" in policy
        assert not re.search(r"<script>|<style|\son\w+=|\sstyle=", answer.text())
