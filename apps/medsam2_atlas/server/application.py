"""The ASGI application, `server.application:app`: MONAI Label's routes, and what they lack."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import monailabel.endpoints
from fastapi import FastAPI
from fastapi.responses import FileResponse, PlainTextResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from monailabel.config import settings
from monailabel.endpoints import batch_infer, datastore, info, model, scoring, train
from monailabel.interfaces.utils.app import app_instance
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import Scope

from medsam2_atlas.base.jobs import JobQueue
from medsam2_atlas.base.processes import ProcessMark
from medsam2_atlas.base.scratch import sweep, sweep_leftovers
from medsam2_atlas.base.urls import is_url
from medsam2_atlas.base.version import package_version
from medsam2_atlas.cli.endings import plain_endings
from medsam2_atlas.imaging import decoding
from medsam2_atlas.storage import WorkFolder
from server import audit as audits
from server import (
    dicomweb,
    docs_page,
    errors,
    infer,
    jobs,
    log_lines,
    login,
    logs,
    next_case,
    private_files,
    readiness,
    review,
    sessions,
    stow,
    studies,
    viewer,
    work,
)
from server.access import Access, AccessMiddleware
from server.answers import JsonAnswer
from server.audit import Audit, AuditMiddleware
from server.config import ServerConfig, server_config
from server.connections import Connections
from server.erasures import finish_interrupted, watch_erasures
from server.headers import HeadersMiddleware
from server.metrics import Metrics
from server.middleware import RequestMiddleware, SizeLimitMiddleware
from server.offloop import off_the_loop
from server.paths import PathsMiddleware
from server.person_limits import PersonLimitMiddleware
from server.readiness import Readiness, check_audit, check_server
from server.root_path import RootPathMiddleware, path_of
from server.stopping import Stopping, bounded
from tasks.claims import SERVER_VARIABLE, end_orphans, end_own_work

log = logging.getLogger(__name__)

_SMALL_BYTES = 10_000_000
_FILE_CHUNK = 1 << 20
_STOP_SECONDS = 3.0
"""Max seconds that each part of the server may take to stop; see `server.stopping`."""
_SWITCH_SECONDS = 0.0005
"""How long inference may keep the interpreter from those who answer; Python's 5 ms add up over the turns of a request."""
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
"""Routes of MONAI Label that are replaced, or left out as they are deprecated there."""


def create_app(config: ServerConfig) -> FastAPI:
    """The application for the app and studies that MONAI Label's settings name."""
    sys.setswitchinterval(_SWITCH_SECONDS)
    FileResponse.chunk_size = _FILE_CHUNK  # each chunk goes through a thread: 64 KiB make hundreds of turns of a CT
    queue = JobQueue(config.queue, dispose=infer.dispose, per_person=config.queue_per_person)
    metrics = Metrics(queue.counts, lambda: app_instance().datastore().status(), lambda: app_instance()._infers)
    access, stopping, audit = Access(config), Stopping(), Audit(config)
    connections = Connections(config.connection_limits)
    stopping.call(lambda: queue.stop(_STOP_SECONDS))
    stopping.call(end_own_work)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        connections.install()  # before the signal handlers are wrapped
        work = WorkFolder.of(settings.MONAI_LABEL_STUDIES)
        await run_in_threadpool(private_files.begin, work, config.files_for_group)
        format_lines = partial(log_lines.install, settings.MONAI_LABEL_STUDIES, work, config.log_names)
        await run_in_threadpool(format_lines)
        stopping.install()
        await run_in_threadpool(_prepare, work)
        await run_in_threadpool(audit.open, work)
        await run_in_threadpool(finish_interrupted, settings.MONAI_LABEL_STUDIES)
        instance = await run_in_threadpool(app_instance)
        instance.server_mode(True)
        await run_in_threadpool(instance.on_init_complete)
        await run_in_threadpool(format_lines)  # libraries have added handlers of their own
        stop_watching = watch_erasures(queue, instance.datastore().store.erased)
        async with dicomweb.client() as app.state.dicomweb:
            yield
        for end in (stop_watching, lambda: queue.stop(_STOP_SECONDS), end_own_work, instance.stop, decoding.shutdown):
            await run_in_threadpool(bounded, end, _STOP_SECONDS)
        await run_in_threadpool(bounded, audit.close, _STOP_SECONDS)

    # The first one sees a request first.
    middleware = [
        Middleware(HeadersMiddleware, frame_ancestors=config.frame_ancestors),
        Middleware(RootPathMiddleware, root_path=config.root_path),
        Middleware(RequestMiddleware, served=metrics.served, stopping=stopping),
        Middleware(PathsMiddleware),
        Middleware(
            CORSMiddleware,
            allow_origins=list(config.origins),
            allow_credentials=bool(config.origins),
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "X-Request-ID"],
            expose_headers=["X-Request-ID", "X-Job-ID", "Retry-After"],
        ),
        Middleware(AuditMiddleware, audit=audit),
        Middleware(AccessMiddleware, access=access, config=config),
        Middleware(PersonLimitMiddleware, limit=config.requests_per_person),
        Middleware(SizeLimitMiddleware, limit=_limits(config)),
    ]
    options: dict[str, Any] = {"default_response_class": JsonAnswer, "middleware": middleware, "lifespan": lifespan}
    options |= {"docs_url": None, "redoc_url": None}  # FastAPI's pages load scripts from other hosts
    app = FastAPI(title="medsam2_atlas", version=package_version(), **options)
    app.state.readiness = Readiness(lambda: [*check_server(), *check_audit(audit.opened)])
    app.state.config = config
    app.state.queue, app.state.metrics, app.state.access, app.state.stopping = queue, metrics, access, stopping
    app.state.audit = audit
    access.tell_of_tokens(audit.tokens_read)
    errors.install(app)
    for own in (
        infer.router,
        jobs.router,
        studies.router,
        sessions.router,
        work.router,
        next_case.router,
        dicomweb.router,
        stow.router,
        viewer.router,
        review.router,
        login.router,
        logs.router,
        docs_page.router,
        audits.router,
        readiness.router,
    ):
        app.include_router(own)
    for stock in (info, model, batch_infer, train, scoring, datastore):
        app.include_router(off_the_loop(stock.router, _REPLACED))
    static = Path(monailabel.endpoints.__file__).parent / "static"
    app.mount("/static", StaticFiles(directory=static), name="static")
    _add_own(app, metrics)
    return app


def _prepare(work: WorkFolder) -> None:
    """Removes files and ends work processes that killed processes have left."""
    os.environ[SERVER_VARIABLE] = str(ProcessMark.own())
    end_orphans(work)
    removed = sweep() + sweep_leftovers(work.path, recursive=True)
    if not is_url(settings.MONAI_LABEL_STUDIES):
        studies = Path(settings.MONAI_LABEL_STUDIES)
        removed += sweep_leftovers(studies) + sweep_leftovers(studies / "labels", recursive=True)
    if removed:
        log.info("%d temporary files of processes that were killed have been removed", removed)


def _add_own(app: FastAPI, metrics: Metrics) -> None:
    @app.get("/healthz", tags=["Others"], summary="Whether the server lives")
    async def healthz() -> dict[str, str]:
        """Answered without a look at anything else."""
        return {"status": "ok"}

    @app.get("/metrics", tags=["Others"], summary="Counts for Prometheus")
    def show_metrics() -> Response:
        """Requests, queue, stages, cases."""
        return PlainTextResponse(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        """The documentation of the routes."""
        return RedirectResponse("/docs")


def _limits(config: ServerConfig) -> Any:
    def limit(scope: Scope) -> int:
        path = path_of(scope)
        if not Headers(scope=scope).get("content-type", "").lower().lstrip().startswith("multipart/"):
            return _SMALL_BYTES  # is held in memory
        if path.startswith("/datastore/label"):
            return config.label_mb * 1_000_000
        if path.startswith(("/datastore", "/infer/", "/session", "/model/", "/proxy/")):
            return config.upload_mb * 1_000_000
        return _SMALL_BYTES

    return limit


with plain_endings():  # settings and tokens that cannot be used, told to the person who starts the server
    app = create_app(server_config(settings.MONAI_LABEL_APP_CONF))
