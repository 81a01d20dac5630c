"""Serves the real pages with pretended cases, so that their look and errors can be tested in seconds, without models."""

from __future__ import annotations

import io
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Annotated, Any

import numpy as np
import uvicorn
from fastapi import Body, FastAPI, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from PIL import Image

from medsam2_atlas.base.errors import ClaimedError
from server import errors, pages
from server.attendance import page_open
from server.headers import HeadersMiddleware

STATES = ("new", "predicted", "in work", "waits for review", "returned", "signed off", "problem")
ACTIONS = dict(zip(STATES, ("segment", "correct", "correct", "review", "correct", "view", "fix"), strict=True))
ORGANS = ("pancreas", "duodenum", "gallbladder", "esophagus", "left_adrenal_gland", "bladder")
HOSTILE = "<img src=x onerror=alert(1)>\"'&amp;"


def row(number: int, **changes: Any) -> dict[str, Any]:
    """Returns a row of the worklist; its state follows from its number."""
    state = STATES[number % len(STATES)]
    final = state in ("waits for review", "returned", "signed off")
    made = datetime.now(timezone.utc) - timedelta(hours=3 * number)
    found: dict[str, Any] = {
        "study": f"1.2.826.0.1.3680043.8.498.{number:04d}",
        "patient": f"P-{number:04d}",
        "date": f"2026-{1 + number % 12:02d}-{1 + number % 28:02d}",
        "description": ("Abdomen, portal venous", "Thorax and abdomen", "Abdomen, non-contrast")[number % 3],
        "state": state,
        "models": [] if state == "new" else ["medsam2_atlas", "unet_3d"],
        "model": None if state == "new" else "medsam2_atlas",
        "author": ("Ana Silva", "Ben Okafor", "Kim Lee")[number % 3] if final else "",
        "time": "" if state == "new" else made.isoformat(),
        "version": 1 + number % 3 if final else 0,
        "confidence": None if state == "new" else round(0.45 + (number * 37 % 50) / 100, 2),
        "disagreement": None if state == "new" else round((number * 53 % 70) / 100, 2),
        "uncertainty": 0.2,
        "novelty": 0.3,
        "check": []
        if state in ("new", "signed off")
        else [[ORGANS[(number + k) % 6], 0.21 + 0.13 * k] for k in range(number % 4)],
        "checks": 0 if state in ("new", "signed off") else number % 4,
        "problem": "the image cannot be read: the file ends early." if state == "problem" else "",
        "why": "" if state in ("new", "problem") else "pancreas and duodenum differ most between medsam2_atlas and unet_3d",
        "assigned": "Ben Okafor" if number % 9 == 4 else "",
        "claimed": {"person": "Ana Silva", "since": made.isoformat()} if state == "in work" else None,
        "mine": False,
        "opened": [],
        "comment": {"by": "Ben Okafor", "time": made.isoformat(), "text": "The duodenum ends too early."}
        if state == "returned"
        else None,
        "viewer": f"ohif/annotate?StudyInstanceUIDs={number}",
        "tag": "" if state in ("new", "problem") else "final" if final else "medsam2_atlas",
    }
    found = {**found, **changes}
    return {**found, "action": changes.get("action", ACTIONS[found["state"]])}


@dataclass
class Team:
    """What the pretended server answers.

    Attributes:
        rows: the cases.
        summary: fields that replace those of the summary.
        answers: answers by path that replace all others: a status with a JSON value.
        asked: requests that change something, as method, path with query, and body.
        held: studies that another person holds, with that person.
        figures: answer of `/worklist/figures`.
        versions: versions of the compared case.
    """

    rows: list[dict[str, Any]]
    summary: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, tuple[int, Any]] = field(default_factory=dict)
    asked: list[tuple[str, str, Any]] = field(default_factory=list)
    held: dict[str, str] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    versions: list[dict[str, Any]] = field(default_factory=list)

    def summarised(self) -> dict[str, Any]:
        """Returns the summary of the cases."""
        counts, able = Counter(one["state"] for one in self.rows), {"missing": "", "stored": True}
        return {
            "total": len(self.rows),
            "counts": counts,
            "today": 3,
            "week": 11,
            "demo_weights": True,
            "review": True,
            "models": [
                {"name": "medsam2_atlas", "title": "MedSAM2 with atlas", "version": "1", "mark": "demo weights"} | able,
                {"name": "unet_2d", "title": "U-Net 2D", "version": "", "mark": ""}
                | able
                | {"missing": "has no weights. Train it."},
            ],
            "queue": {"running": 0, "waiting": 0, "yours": []},
            "you": {"name": "Kim Lee", "role": "reviewer"},
            "users": ["Kim Lee", "Max Nowak"],
            "may": {"upload": False, "assign": True, "review": True, "batch": False},
            "pacs": False,
            "pacs_problem": "",
            "learning": {"on": False, "done": 0, "of": 0},
            "batch": {"running": False, "state": None},
            **self.summary,
        }


def pretended_app(team: Team) -> FastAPI:
    """Returns an application with the real pages and the pretended routes."""
    app = FastAPI()
    app.dependency_overrides[page_open] = lambda: None  # there are no jobs to keep
    errors.install(app)
    app.include_router(pages.router)

    @app.middleware("http")
    async def replaced(request: Request, call_next: Any) -> Any:
        if request.method != "GET":
            content = (await request.body()).decode(errors="replace")
            query = f"?{request.url.query}" if request.url.query else ""
            team.asked.append((request.method, request.url.path + query, content))
        if request.url.path in team.answers:
            status, value = team.answers[request.url.path]
            return JSONResponse(value, status)
        return await call_next(request)

    @app.get("/worklist/cases")
    def cases(
        state: Annotated[list[str] | None, Query()] = None,
        person: str = "",
        organ: str = "",
        model: str = "",
        q: str = "",
        sort: str = "priority",
        down: bool = False,
        page: int = 1,
        size: int = 50,
    ) -> dict[str, Any]:
        found = [one for one in team.rows if not state or one["state"] in state]
        found = [one for one in found if not person or person in (one["author"], one["assigned"])]
        found = [one for one in found if not organ or organ in [name for name, _ in one["check"]]]
        found = [one for one in found if not model or model in one["models"]]
        found = [one for one in found if q.lower() in f"{one['patient']} {one['description']} {one['date']}".lower()]
        if sort != "priority":
            found.sort(
                key=lambda one: (one[sort] is None, one[sort] or 0 if sort in ("confidence", "disagreement") else one[sort])
            )
            found = found[::-1] if down else found
        people = sorted({one["author"] for one in team.rows} - {""})
        return {
            "total": len(found),
            "page": page,
            "pages": -(-len(found) // size),
            "size": size,
            "counts": team.summarised()["counts"],
            "people": people,
            "models": ["medsam2_atlas", "unet_3d"],
            "organs": sorted(ORGANS),
            "rows": found[(page - 1) * size : page * size],
        }

    @app.get("/worklist/summary")
    def summary() -> dict[str, Any]:
        return team.summarised()

    @app.get("/worklist/picture")
    def picture(study: str) -> Response:
        seed = sum(map(ord, study))
        y, x = np.mgrid[-1:1:228j, -1:1:336j]
        grey = 90 * ((x / 0.9) ** 2 + (y / 0.8) ** 2 < 1) + 25 * np.random.default_rng(seed).random(x.shape)
        array = np.repeat(grey[..., None], 3, 2)
        for k, colour in enumerate(((200, 60, 60), (80, 180, 90), (80, 120, 220), (220, 190, 60))):
            centre = ((seed * (k + 3) % 17) / 17 - 0.5, (seed * (k + 5) % 13) / 13 - 0.5)
            array[(x - centre[0]) ** 2 + (y - centre[1]) ** 2 < 0.03 + 0.01 * k] = colour
        stream = io.BytesIO()
        Image.fromarray(array.astype(np.uint8)).save(stream, "PNG")
        return Response(stream.getvalue(), media_type="image/png")

    @app.post("/worklist/claim")
    def claim(body: Annotated[dict[str, Any], Body()]) -> Any:
        other = team.held.get(body["study"])
        if other:
            since = (datetime.now(timezone.utc) - timedelta(minutes=20)).isoformat()
            return errors.from_error(
                ClaimedError(body["study"], "has been claimed.", "Choose another case.", {"person": other, "since": since})
            )
        return {"claimed": {"person": "Kim Lee", "since": "2026-11-27T10:12:00+00:00"}}

    @app.post("/worklist/next")
    def next_case() -> dict[str, Any]:
        left = [one for one in team.rows if one["action"] in ("segment", "correct")]
        return (
            {"study": left[0]["study"], "why": left[0]["why"] or "first by name", "viewer": left[0]["viewer"]} if left else {}
        )

    @app.get("/worklist/next")
    def next_reason() -> dict[str, Any]:
        return {key: value for key, value in next_case().items() if key in ("study", "why")}

    @app.get("/worklist/figures")
    def figures(days: int = 30) -> dict[str, Any]:
        return team.figures

    @app.get("/compare/case")
    def compared(study: str) -> dict[str, Any]:
        organs = [{"label": k + 1, "name": name, "title": name.replace("_", " ").capitalize()} for k, name in enumerate(ORGANS)]
        return {
            "study": study,
            "title": "P-0001 · Abdomen",
            "versions": team.versions,
            "organs": organs,
            "viewer": "ohif/annotate",
        }

    @app.get("/annotation/compare")
    def difference(first: str, second: str) -> dict[str, Any]:
        organs = {
            str(k): {"dice": 1 - 0.13 * k, "first_ml": 20.5 * k, "second_ml": 22.0 * k, "worst": [40 + k, 30 + k]}
            for k in range(1, 5)
        }
        return {"organs": {**organs, "4": {"dice": 0.0, "first_ml": 0.0, "second_ml": 3.2, "worst": [12]}}}

    @app.get("/compare/picture")
    def slice_picture(organ: int) -> Response:
        return picture(str(organ) * 3)

    @app.api_route("/{path:path}", methods=["GET", "POST", "PUT", "DELETE"])
    async def others(path: str) -> Response:
        return HTMLResponse("<title>another page</title>") if path.startswith(("ohif", "login")) else JSONResponse({})

    return app


@contextmanager
def pretended(team: Team) -> Iterator[str]:
    """Yields the URL of a server with the pretended team."""
    app = HeadersMiddleware(pretended_app(team))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
