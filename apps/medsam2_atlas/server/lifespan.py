"""Starts and stops the parts of the server. At the start it also removes what killed processes have left."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

from fastapi import FastAPI
from monailabel.config import settings
from monailabel.interfaces.utils.app import app_instance
from starlette.concurrency import run_in_threadpool

from medsam2_atlas.base.processes import ProcessMark
from medsam2_atlas.base.scratch import sweep, sweep_leftovers
from medsam2_atlas.base.urls import is_url
from medsam2_atlas.imaging import decoding
from medsam2_atlas.storage import WorkFolder
from server import dicomweb, log_lines, private_files
from server.announcement import announce
from server.erasures import finish_interrupted, watch_erasures
from server.parts import Parts
from server.stopping import bounded
from tasks.claims import SERVER_VARIABLE, end_orphans, end_own_work

log = logging.getLogger(__name__)

WARM_SECONDS = 3.0
"""Max seconds that the server's start waits for the first worklist, which is computed beside other work."""
STOP_SECONDS = 3.0
"""Max seconds that each part of the server may take to stop; see `server.stopping`."""


def lifespan(parts: Parts) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Returns FastAPI's lifespan function, which starts and stops the parts of the server."""
    config, queue, audit = parts.config, parts.queue, parts.audit

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        parts.connections.install()  # before the signal handlers are wrapped
        work = WorkFolder.of(settings.MONAI_LABEL_STUDIES)
        await run_in_threadpool(private_files.begin, work, config.files_for_group)
        format_lines = partial(log_lines.install, settings.MONAI_LABEL_STUDIES, work, config.log_names)
        await run_in_threadpool(format_lines)
        parts.stopping.install()
        await run_in_threadpool(_prepare, work)
        await run_in_threadpool(audit.open, work)
        await run_in_threadpool(finish_interrupted, settings.MONAI_LABEL_STUDIES)
        instance = await run_in_threadpool(app_instance)
        instance.server_mode(True)
        await run_in_threadpool(instance.on_init_complete)
        await run_in_threadpool(format_lines)  # also for handlers that libraries have added meanwhile
        stop_watching = watch_erasures(queue, instance.datastore().store.erased, instance.forget_cases)
        watching = asyncio.create_task(parts.attendance.watch(audit.job_abandoned))
        async with dicomweb.client() as app.state.dicomweb:
            missing = await run_in_threadpool(instance._missing)
            await run_in_threadpool(instance.worklist.warmed, WARM_SECONDS)
            announcing = asyncio.create_task(_announce(parts, missing))
            yield
        watching.cancel()
        announcing.cancel()
        for end in (stop_watching, lambda: queue.stop(STOP_SECONDS), end_own_work, instance.stop, decoding.shutdown):
            await run_in_threadpool(bounded, end, STOP_SECONDS)
        await run_in_threadpool(bounded, audit.close, STOP_SECONDS)

    return life


async def _announce(parts: Parts, missing: Iterable[str]) -> None:
    """Prints the address as soon as a browser can open it."""
    await parts.stopping.listening()
    announce(parts.config, missing, Path(settings.MONAI_LABEL_APP_DIR))


def _prepare(work: WorkFolder) -> None:
    """Removes temporary files and ends work processes that killed processes have left."""
    os.environ[SERVER_VARIABLE] = str(ProcessMark.own())
    end_orphans(work)
    removed = sweep() + sweep_leftovers(work.path, recursive=True)
    if not is_url(settings.MONAI_LABEL_STUDIES):
        studies = Path(settings.MONAI_LABEL_STUDIES)
        removed += sweep_leftovers(studies) + sweep_leftovers(studies / "labels", recursive=True)
    if removed:
        log.info("%d temporary files of killed processes were removed", removed)
