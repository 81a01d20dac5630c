"""Tests the viewer's modules that compute with voxels, in a real browser and without OHIF, against NumPy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from medsam2_atlas.base.resource import resource

browser = pytest.importorskip("e2e.browser")

pytestmark = pytest.mark.skipif(browser.chromium_program() is None, reason="Chromium is not installed")

_RUN = """async ([code, expression, input]) => {
    const module = await import('data:text/javascript,' + encodeURIComponent(code));
    return new Function('m', 'i', 'return ' + expression)(module, input);
}"""
SIZE = (7, 5, 4)
"""Voxels along x, y and z; their number is no multiple of four in a slice."""


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    with browser.browser_page() as opened:
        yield opened


def run(page: Any, name: str, expression: str, **given: Any) -> Any:
    """Returns the value of a JavaScript expression with a module `m` and the given values `i`."""
    code = (resource("apps/medsam2_atlas") / "server" / "annotator" / name).read_text(encoding="utf-8")
    code = code.replace("import.meta.url", "'http://127.0.0.1/sub/ohif/annotator.js'")  # modules here have no address
    return page.evaluate(_RUN, [code, expression, given])


def random_labels(seed: int) -> np.ndarray:
    """Returns a label map `[z, y, x]` of 0 to 3, mostly 0."""
    generator = np.random.default_rng(seed)
    return (generator.integers(0, 4, SIZE[::-1]) * (generator.random(SIZE[::-1]) < 0.4)).astype(np.uint8)


@pytest.mark.parametrize("seed", range(3))
def test_voxels_and_changes_are_counted_by_label(page: Any, seed: int) -> None:
    before, after = random_labels(seed), random_labels(seed + 10)
    found = run(
        page,
        "runs.js",
        "[Array.from(m.counts(Uint8Array.from(i.after))), m.changes(Uint8Array.from(i.before), Uint8Array.from(i.after))]",
        before=before.ravel().tolist(),
        after=after.ravel().tolist(),
    )
    differing = before != after
    assert found[0][:4] == np.bincount(after.ravel(), minlength=4).tolist()
    for key, labels in (("added", after), ("removed", before)):
        assert [found[1][key][k] for k in range(4)] == np.bincount(labels[differing], minlength=4).tolist()


@pytest.mark.parametrize("seed", range(3))
def test_runs_undo_and_redo_a_change(page: Any, seed: int) -> None:
    before, after = random_labels(seed).ravel().tolist(), random_labels(seed + 10).ravel().tolist()
    found = run(
        page,
        "runs.js",
        """(() => {
            const [before, after] = [Uint8Array.from(i.before), Uint8Array.from(i.after)];
            const runs = m.runsBetween(before, after);
            const undone = after.slice(), redone = before.slice();
            m.applyRuns(undone, runs, true);
            m.applyRuns(redone, runs, false);
            return [Array.from(undone), Array.from(redone), m.runsBetween(before, before).starts.length];
        })()""",
        before=before,
        after=after,
    )
    assert found == [before, after, 0]


def test_a_comparison_gives_dice_differences_and_the_worst_slices(page: Any) -> None:
    first, second = random_labels(1), random_labels(2)
    found = run(
        page,
        "compare.js",
        """(() => {
            const { map, organs } = m.compared(Uint8Array.from(i.first), Uint8Array.from(i.second), [1, 2, 3, 9], i.size);
            return [Array.from(map), Object.fromEntries(organs)];
        })()""",
        first=first.ravel().tolist(),
        second=second.ravel().tolist(),
        size=SIZE,
    )
    expected = np.select([first == second, second == 0, first == 0], [0, 1, 2], 3)
    assert found[0] == expected.ravel().tolist()
    for organ in (1, 2, 3):
        one, two = first == organ, second == organ
        figures = found[1][str(organ)]
        assert figures["dice"] == pytest.approx(2 * (one & two).sum() / (one.sum() + two.sum()))
        assert (figures["first"], figures["second"]) == (one.sum(), two.sum())
        by_slice = (one ^ two).sum((1, 2))
        assert [by_slice[z] for z in figures["worst"]] == sorted(by_slice[by_slice > 0], reverse=True)[:3]
    assert found[1]["9"] == {"dice": None, "first": 0, "second": 0, "worst": []}


@pytest.mark.parametrize("flat", [0, 1, 2])
def test_a_lasso_fills_its_inside_on_any_plane_but_not_locked_organs(page: Any, flat: int) -> None:
    axes = [axis for axis in range(3) if axis != flat]
    outline = []
    for u, v in ((1, 1), (3, 1), (3, 3), (1, 3)):
        point = [2, 2, 2]
        point[axes[0]], point[axes[1]] = u, v
        outline.append(point)
    labels = np.zeros(SIZE[::-1], np.uint8)
    labels[2, 2, 2] = 7
    found = run(
        page,
        "lasso.js",
        "Array.from(m.filled(i.outline, { voxels: Uint8Array.from(i.labels), size: i.size, label: 4, locked: new Set([7]) }))",
        outline=outline,
        labels=labels.ravel().tolist(),
        size=SIZE,
    )
    filled = np.argwhere(np.array(found).reshape(labels.shape) == 4)[:, ::-1]  # (x, y, z)
    assert (filled[:, flat] == 2).all()
    assert 4 <= len(filled) <= 9
    assert filled[:, axes].min() >= 1
    assert filled[:, axes].max() <= 3
    assert found[np.ravel_multi_index((2, 2, 2), labels.shape)] == 7


def test_a_lasso_on_an_oblique_pane_is_refused(page: Any) -> None:
    with pytest.raises(Exception, match="only on panes along the axes"):
        run(
            page,
            "lasso.js",
            "m.filled(i.outline, { voxels: new Uint8Array(140), size: i.size, label: 1, locked: new Set() })",
            outline=[[0, 0, 0], [2, 2, 2], [4, 0, 3]],
            size=SIZE,
        )


@pytest.fixture
def served(page: Any) -> Iterator[Any]:
    """Yields a page below the path of a proxy, so that modules can import each other."""
    error = {"error": {"message": "You are not logged in.", "remedy": "Send a token."}}

    def serve(route: Any) -> None:
        path = route.request.url.partition("/sub/")[2]
        if path.endswith(".js"):
            file = resource("apps/medsam2_atlas") / "server" / path.replace("ohif/", "annotator/")
            route.fulfill(body=file.read_text(encoding="utf-8"), content_type="text/javascript")
        elif path == "away":
            route.abort()
        elif path.startswith("refused"):
            route.fulfill(status=int(path[-3:]), json=error)
        else:
            route.fulfill(body="<!doctype html>", content_type="text/html")

    opened = page.context.new_page()
    opened.route("**/*", serve)
    opened.goto("http://127.0.0.1:9/sub/ohif/")
    yield opened
    opened.close()


def test_an_expired_login_and_a_silent_server_are_told_in_words(served: Any) -> None:
    asked = """async path => {
        const { ask, Refused } = await import('./server.js');
        return ask(path).catch(error => [error instanceof Refused, error.status, error.message]);
    }"""
    found = [served.evaluate(asked, path) for path in ("refused/401", "refused/409", "away")]
    assert found[0][:2] == [True, 401]
    assert "http://127.0.0.1:9/sub/login" in found[0][2]
    assert "stays on the screen" in found[0][2]
    assert found[1] == [True, 409, "You are not logged in. Send a token."]
    assert "The server does not answer." in found[2][2]  # and not only "Failed to fetch"


def test_the_note_that_work_is_not_kept_disappears_when_it_is_kept(served: Any) -> None:
    found = served.evaluate(
        """async () => {
            const { Drafting } = await import('./drafting.js');
            const state = { drafted: '', message: null };
            const session = {
                state,
                query: {},
                layer: { read: () => new Uint8Array([1]) },
                store: { set: change => Object.assign(state, change) },
                say: (kind, text) => { state.message = { kind, text }; },
            };
            const drafting = new Drafting(session, new Uint8Array([0]));
            const answers = [{ ok: false, status: 507 }, { ok: true, status: 204 }];
            window.fetch = async () => ({ ...answers.shift(), json: async () => ({}) });
            await drafting.settled();
            const failed = [state.drafted, state.message?.kind];
            await drafting.settled();
            drafting.close();
            return [failed, [state.drafted, state.message]];
        }"""
    )
    assert found == [["failed", "error"], ["kept", None]]


def test_active_seconds_are_counted_by_organ_without_pauses_and_survive_a_reload(page: Any) -> None:
    found = run(
        page,
        "activity.js",
        """(() => {
            const kept = new Map();
            const storage = { getItem: name => kept.get(name) ?? null, setItem: (name, value) => kept.set(name, value) };
            Object.defineProperty(window, 'sessionStorage', { value: storage, configurable: true });
            let now = 0;
            const activity = new m.Activity('a', () => now);
            const at = (seconds, what) => { now = 1000 * seconds; what(); };
            at(0, () => activity.seen());
            at(30, () => activity.seen()); // no organ was chosen yet
            at(40, () => activity.choose(6));
            at(70, () => activity.seen());
            at(400, () => activity.choose(1)); // after a pause
            at(402.5, () => activity.seen());
            activity.keep();
            const again = new m.Activity('a', () => now).query;
            const other = new m.Activity('b', () => now).query;
            const before = activity.query;
            activity.restart();
            return [before, again, other, activity.query];
        })()""",
    )
    counted = {"active_seconds": "72.5", "organ_seconds": "6:30.0,1:2.5"}
    assert found == [counted, counted, {}, {}]
