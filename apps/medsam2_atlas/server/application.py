"""The ASGI application `server.application:app`: MONAI Label's routes and the routes and layers that this project adds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import monailabel.endpoints
from fastapi import FastAPI
from fastapi.responses import FileResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles
from monailabel.config import settings
from monailabel.endpoints import batch_infer, datastore, info, model, scoring, train
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import Scope

from medsam2_atlas.base.version import package_version
from medsam2_atlas.cli.endings import plain_endings
from server import (
    annotation,
    assignments,
    comparison,
    dicomweb,
    docs_page,
    errors,
    infer,
    jobs,
    login,
    logs,
    next_case,
    pages,
    readiness,
    refinement,
    sent_images,
    sessions,
    stow,
    studies,
    submission,
    viewer,
    work,
    worklist,
)
from server import audit as audits
from server.access import AccessMiddleware
from server.answers import JsonAnswer
from server.audit import AuditMiddleware
from server.config import ServerConfig, server_config
from server.headers import HeadersMiddleware
from server.lifespan import STOP_SECONDS, lifespan
from server.metrics import Metrics
from server.middleware import RequestMiddleware, SizeLimitMiddleware
from server.offloop import off_the_loop
from server.parts import Parts
from server.paths import PathsMiddleware
from server.person_limits import PersonLimitMiddleware
from server.readiness import Readiness, check_audit, check_server
from server.root_path import RootPathMiddleware, path_of
from server.study_uids import StudyUidMiddleware
from tasks.claims import end_own_work

_SMALL_BYTES = 10_000_000
_FILE_CHUNK = 1 << 20
_SWITCH_SECONDS = 0.0005
"""Max seconds that inference holds the interpreter while a request waits. Python's default of 5 ms applies to each turn of a
request, and the turns add up."""
_REPLACED = frozenset(
    {
        *((method, f"/datastore/{path}") for method, path in (("PUT", ""), ("PUT", "image"), ("DELETE", ""), ("PUT", "label"))),
        *((method, f"/datastore/{path}") for method, path in (("DELETE", "label"), ("GET", "dataset"))),
        *((method, "/model/{model}") for method in ("PUT", "DELETE")),
        *(("PUT", f"/datastore/{path}") for path in ("image/info", "label/info", "updatelabelinfo")),
        *(("POST", path) for path in ("/train/", "/train/{model}", "/scoring/", "/scoring/{method}")),
        ("POST", "/batch/infer/{model}"),
    }
)
"""Routes of MONAI Label that this server replaces, or omits because MONAI Label has deprecated them."""
_OWN_ROUTES = (
    *(infer, jobs, studies, sessions, work, next_case, assignments, annotation, submission, refinement, dicomweb, stow),
    *(sent_images, viewer, pages, comparison, worklist, login, logs, docs_page, audits, readiness),
)
"""Modules with the server's own routes."""


def create_app(config: ServerConfig) -> FastAPI:
    """Returns the application for the app and the studies in MONAI Label's settings."""
    sys.setswitchinterval(_SWITCH_SECONDS)
    FileResponse.chunk_size = _FILE_CHUNK  # a thread sends each chunk: chunks of 64 KiB would need hundreds of turns for a CT
    parts = Parts.of(config)
    parts.stopping.on_signal(lambda: parts.queue.stop(STOP_SECONDS))
    parts.stopping.on_signal(end_own_work)
    options: dict[str, Any] = {
        "default_response_class": JsonAnswer,
        "middleware": _layers(parts),
        "lifespan": lifespan(parts),
        "docs_url": None,  # FastAPI's pages load scripts from other hosts
        "redoc_url": None,
    }
    app = FastAPI(title="medsam2_atlas", version=package_version(), **options)
    app.state.readiness = Readiness(lambda: [*check_server(), *check_audit(parts.audit.opened)])
    app.state.config, app.state.queue, app.state.metrics = config, parts.queue, parts.metrics
    app.state.access, app.state.stopping, app.state.audit = parts.access, parts.stopping, parts.audit
    app.state.attendance = parts.attendance
    parts.access.on_tokens_changed(parts.audit.tokens_read)
    errors.install(app)
    for own in _OWN_ROUTES:
        app.include_router(own.router)
    for stock in (info, model, batch_infer, train, scoring, datastore):
        app.include_router(off_the_loop(stock.router, _REPLACED))
    static = Path(monailabel.endpoints.__file__).parent / "static"
    app.mount("/static", StaticFiles(directory=static), name="static")
    _add_own(app, parts.metrics)
    return app


def _layers(parts: Parts) -> list[Middleware]:
    """Returns the layers that a request passes, from the outermost to the innermost."""
    config = parts.config
    return [
        Middleware(HeadersMiddleware, frame_ancestors=config.frame_ancestors),
        Middleware(RootPathMiddleware, root_path=config.root_path),
        Middleware(RequestMiddleware, served=parts.metrics.served, stopping=parts.stopping),
        Middleware(PathsMiddleware),
        Middleware(
            CORSMiddleware,
            allow_origins=list(config.origins),
            allow_credentials=bool(config.origins),
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "X-Request-ID"],
            expose_headers=["X-Request-ID", "X-Job-ID", "X-Shape", "X-Version", "X-Report", "Retry-After"],
        ),
        Middleware(AuditMiddleware, audit=parts.audit),
        Middleware(AccessMiddleware, access=parts.access, config=config),
        Middleware(StudyUidMiddleware),
        Middleware(PersonLimitMiddleware, limit=config.requests_per_person),
        Middleware(SizeLimitMiddleware, limit=_limits(config)),
    ]


def _add_own(app: FastAPI, metrics: Metrics) -> None:
    @app.get("/healthz", tags=["Others"], summary="Whether the server is alive")
    async def healthz() -> dict[str, str]:
        """Answers without checking anything else."""
        return {"status": "ok"}

    @app.get("/metrics", tags=["Others"], summary="Counts for Prometheus")
    def show_metrics() -> Response:
        """Returns counts and times of requests, jobs, stages and studies."""
        return PlainTextResponse(metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _limits(config: ServerConfig) -> Any:
    def limit(scope: Scope) -> int:
        path = path_of(scope)
        if path.startswith("/annotation/"):
            return config.label_mb * 1_000_000  # written to disk as they arrive
        if not Headers(scope=scope).get("content-type", "").lower().lstrip().startswith("multipart/"):
            return _SMALL_BYTES  # the whole body is kept in memory
        if path.startswith("/datastore/label"):
            return config.label_mb * 1_000_000
        if path.startswith(("/datastore", "/infer/", "/session", "/model/", "/proxy/")):
            return config.upload_mb * 1_000_000
        return _SMALL_BYTES

    return limit


with plain_endings():  # prints unusable settings or tokens as plain messages to the operator
    app = create_app(server_config(settings.MONAI_LABEL_APP_CONF))
