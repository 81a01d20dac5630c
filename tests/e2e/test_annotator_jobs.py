"""The viewer follows a run through failures of a proxy, the login and the server; its modules run in a browser without OHIF."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from medsam2_atlas.base.resource import resource

browser = pytest.importorskip("e2e.browser")

pytestmark = pytest.mark.skipif(browser.chromium_program() is None, reason="Chromium is not installed")

ADDRESS = "http://127.0.0.1:9/ohif/"
_SETUP = """streams => {
    window.opened = 0;
    window.EventSource = class extends EventTarget {
        static CLOSED = 2;
        constructor(address) {
            super();
            const events = streams[window.opened++] ?? [];
            this.readyState = 1;
            const wait = window.timer;
            wait(async () => {
                for (const job of events) {
                    const event = new Event('job');
                    event.data = JSON.stringify(job);
                    this.dispatchEvent(event);
                }
                if (this.readyState !== 2) {
                    this.readyState = 2; // as after an answer that is an error
                    this.onerror();
                }
            }, 0);
        }
        close() { this.readyState = 2; }
    };
    window.timer ??= window.setTimeout.bind(window);
    window.setTimeout = (call, ms) => window.timer(call, ms / 1000);
}"""
_FOLLOW = """async () => {
    const { follow } = await import('./job.js');
    const seen = [];
    const end = await follow('a1', job => seen.push(job.state)).catch(error => 'Error: ' + error.message);
    return { end, seen, opened: window.opened };
}"""
RUNNING, DONE = {"id": "a1", "state": "running"}, {"id": "a1", "state": "done"}


class Viewer:
    """A page with the viewer's modules. Event streams send `streams` in turn and then fail; questions get `answers` in turn."""

    def __init__(self, page: Any) -> None:
        self._page = page
        self.answers: list[tuple[int, Any]] = []
        self.asked: list[str] = []
        page.route("**/*", self._serve)

    def follow(self, *streams: list[Any]) -> dict[str, Any]:
        self._page.goto(ADDRESS)
        self._page.evaluate(_SETUP, list(streams))
        found: dict[str, Any] = self._page.evaluate(_FOLLOW)
        return found

    def evaluate(self, expression: str, given: Any) -> Any:
        self._page.goto(ADDRESS)
        return self._page.evaluate(expression, given)

    def _serve(self, route: Any) -> None:
        path = route.request.url.partition(":9/")[2]
        if path.endswith(".js"):
            file = resource("apps/medsam2_atlas") / "server" / path.replace("ohif/", "annotator/")
            route.fulfill(body=file.read_text(encoding="utf-8"), content_type="text/javascript")
        elif path.startswith("jobs"):
            self.asked.append(path)
            status, content = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            route.fulfill(status=status, json=content)
        else:
            route.fulfill(body="<!doctype html>", content_type="text/html")


@pytest.fixture
def viewer() -> Iterator[Viewer]:
    with browser.browser_page() as page:
        yield Viewer(page)


def test_a_run_is_followed_again_after_an_error_of_a_proxy_and_an_expired_login(viewer: Viewer) -> None:
    viewer.answers = [(502, None), (401, {"error": {"message": "You are not logged in."}}), (200, RUNNING)]
    found = viewer.follow([RUNNING], [DONE])
    assert found == {"end": DONE, "seen": ["running", "running", "done"], "opened": 2}
    assert viewer.asked == ["jobs/a1"] * 3


def test_a_run_that_has_ended_meanwhile_ends_with_its_reason(viewer: Viewer) -> None:
    cancelled = {"id": "a1", "state": "cancelled", "reason": "nobody has followed it for 10 s"}
    viewer.answers = [(200, cancelled)]
    assert viewer.follow([])["end"] == cancelled


def test_a_server_that_was_started_again_does_not_know_the_run(viewer: Viewer) -> None:
    viewer.answers = [(404, {"error": {"message": "'a1' is not the id of a job."}})]
    assert "Run the model again" in viewer.follow([RUNNING])["end"]
    assert len(viewer.asked) == 1


def test_a_server_that_never_answers_again_is_given_up(viewer: Viewer) -> None:
    viewer.answers = [(502, None)]
    found = viewer.follow([RUNNING])
    assert "connection to the server was lost" in found["end"]
    assert found["opened"] == 1
    assert len(viewer.asked) == 20


def test_a_viewer_goes_on_with_its_own_run_but_not_with_that_of_a_script(viewer: Viewer) -> None:
    job = {"id": "s", "kind": "unet_3d", "subject": "case-7", "state": "running"}
    viewer.answers = [
        (200, [{**job, "attended": False}]),
        (200, [{**job, "attended": False}, {**job, "id": "v", "attended": True}]),
    ]
    unfinished = "async image => (await import('./job.js')).unfinished(['unet_3d'], image).then(job => job?.id ?? null)"
    assert viewer.evaluate(unfinished, "case-7") is None
    assert viewer.evaluate(unfinished, "case-7") == "v"
