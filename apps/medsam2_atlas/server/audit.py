"""Writes the server's audit log: one line for each request that reads or changes studies, before its answer is sent.

So every access to studies through this server has a line, and the line contains the outcome of the request. If the line cannot
be written, the request still ends normally (`medsam2_atlas.audit.log`). Lines about changes are on disk before the answer.
Lines about reading are in the operating system's buffers: a killed server loses none, a power cut may lose the last ones.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Query, Request
from monailabel.config import settings
from starlette.datastructures import QueryParams
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medsam2_atlas.audit.entry import AuditEntry, Outcome
from medsam2_atlas.audit.files import AuditLimits
from medsam2_atlas.audit.log import AuditLog
from medsam2_atlas.audit.reading import LineQuery, lines
from medsam2_atlas.base.choices import FINAL
from medsam2_atlas.base.errors import ConflictError
from medsam2_atlas.base.files import write_json
from medsam2_atlas.base.job import Job
from medsam2_atlas.base.version import package_version
from medsam2_atlas.storage import WorkFolder
from server.audit_actions import REFUSED, Action, action_of, study_of, tag_of, version_of
from server.config import ServerConfig
from server.context import request_id
from server.people import LOCAL, NOBODY, User
from server.root_path import path_of
from server.throttle import Throttle

log = logging.getLogger(__name__)
router = APIRouter(tags=["Others"])

_NOTED = "medsam2_atlas.audit"
_SETTINGS = "settings.json"
_SECRET = re.compile(r"secret|passw|_key$|credential", re.IGNORECASE)
_WRITERS = 4
_ANONYMOUS_SECONDS, _ANONYMOUS_LINES = 60.0, 300
"""Max number of lines per 60 s about all users who are not logged in, so that they cannot fill the disk."""
_MAX_LINES = 10_000
_REFUSED = frozenset({401, 403, 409, 429})


class Audit:
    """Records requests in the audit log of the server's studies. Nothing is written before the log is open."""

    def __init__(self, config: ServerConfig) -> None:
        """Creates the recorder; `open` opens its log.

        Args:
            config: the server's settings.
        """
        self._config = config
        self._log: AuditLog | None = None
        self._repeated, self._anonymous, self._held = Throttle(), (float("-inf"), 0), 0

    @property
    def opened(self) -> AuditLog | None:
        """The audit log; None before it is open."""
        return self._log

    def open(self, work: WorkFolder) -> None:
        """Opens the audit log in a work folder and records the server's start with its settings."""
        self._log = AuditLog.of(work, self._config.log_names)
        self._log.files.limits = AuditLimits(self._config.audit_mb * 1_000_000, self._config.audit_keep_days)
        self._log.files.remove_old()
        now = settings_of(self._config, settings.MONAI_LABEL_APP_CONF)
        changed = _changed_settings(self._log, now)
        self._log.record(AuditEntry("server.start", details={"version": package_version(), "changed": changed, **now}))

    def close(self) -> None:
        """Records the server's end."""
        if self._log:
            self._log.record(AuditEntry("server.stop"))
            self._log.flush()

    def tokens_read(self, before: frozenset[User], now: frozenset[User], problem: str) -> None:
        """Records a change of the token file.

        Args:
            before: the users before the change.
            now: the users after the change.
            problem: why the file cannot be used; empty if it can.
        """
        added, removed = (sorted(f"{user.name} ({user.role})" for user in people) for people in (now - before, before - now))
        details = {"problem": problem} if problem else {"added": added, "removed": removed}
        self._write(
            {"action": "settings.tokens", "outcome": "failed" if problem else "done", "details": details, "flush": False}
        )

    def job_abandoned(self, job: Job) -> None:
        """Records that the server cancelled a job, because its viewer has gone."""
        details = {"job": job.id, "owner": job.person, "reason": job.reason}
        self._write({"action": "job.cancel", "study": job.subject, "details": details, "flush": False})

    @cached_property
    def _limiter(self) -> CapacityLimiter:
        return CapacityLimiter(_WRITERS)  # a separate pool: all threads of the handlers may be waiting

    async def answered(self, scope: Scope, status: int) -> None:
        """Records the outcome of a request. Must be awaited in the event loop before the answer is sent."""
        for line in self._lines(scope, status):
            await to_thread.run_sync(self._write, line, limiter=self._limiter)

    def unanswered(self, scope: Scope) -> None:
        """Records that a request ended without an answer, because its client closed the connection or an error occurred."""
        for line in self._lines(scope, 500):
            self._write({**line, "status": None, "flush": False})

    def _write(self, line: dict[str, Any]) -> None:
        if self._log:
            fields = dict(line)
            flush = bool(fields.pop("flush"))
            self._log.record(AuditEntry(**fields), flush=flush)

    def _lines(self, scope: Scope, status: int) -> list[dict[str, Any]]:
        """Returns the lines of a request; none if it needs no line, or had one a short time ago."""
        path, query = path_of(scope), QueryParams(scope.get("query_string", b""))
        found = action_of(scope["method"], path)
        user: User = scope.get("medsam2_atlas.user", NOBODY)
        if user.id == LOCAL.id and status == 403:  # refused on a server without logins: it came from another machine
            user = NOBODY
        if found is None and (status in (401, 403) or (status == 429 and not user.id)):
            found = REFUSED, {"method": scope["method"][:8], "route": "/" + path.split("/")[1][:32]}
        outcome = outcome_of(found[0], status) if found else None
        if found is None or outcome is None:
            return []
        action, named = found
        place = (scope.get("client") or ("", 0))[0]
        lines = []
        for noted in scope.get(_NOTED) or [{}]:
            line: dict[str, Any] = {"action": action.name, "study": study_of(action, path, query), "tag": tag_of(action, query)}
            line |= {
                "version": version_of(action, query),
                "who": user.name,
                "who_id": user.id,
                "role": user.role if user.id else "",
            }
            line |= {"outcome": outcome, "status": status, "place": place, "request": request_id()}
            line |= {"flush": scope["method"] not in ("GET", "HEAD")} | noted
            line["details"] = {**named, **noted.get("details", {})}
            if line["action"] == "label.save" and line["tag"] == FINAL:
                line["action"] = "label.sign_off"
            if self._is_new(action, line):
                lines.append(line)
        return lines

    def _is_new(self, action: Action, line: dict[str, Any]) -> bool:
        """Returns whether to write a line; adds the number of similar lines that were suppressed."""
        known = bool(line["who_id"])
        key = (
            line["who_id"] or line["place"],
            line["action"],
            line["study"],
            line["tag"],
            line.get("version"),
            line["outcome"],
        )
        seconds = action.every if known else max(action.every, 1.0 if action.name == "login" else _ANONYMOUS_SECONDS)
        held = self._repeated.passes(key, seconds)
        if held is None or not (known or self._has_room()):
            return False
        if held:
            line["details"]["repeated"] = held
        if not known and self._held:
            line["details"]["held_back"], self._held = self._held, 0
        return True

    def _has_room(self) -> bool:
        """Returns whether one more line about a user who is not logged in may be written now."""
        began, count = self._anonymous
        now = time.monotonic()
        if now - began > _ANONYMOUS_SECONDS:
            began, count = now, 0
        self._anonymous = began, count + 1
        if count >= _ANONYMOUS_LINES:
            self._held += 1
            return False
        return True


class AuditMiddleware:
    """Records requests. It must be inside of the middleware that assigns request ids and outside of the access check."""

    def __init__(self, app: ASGIApp, audit: Audit) -> None:
        """Creates the layer.

        Args:
            app: the next layer.
            audit: writes the lines.
        """
        self._app, self._audit = app, audit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http" or scope["method"] == "OPTIONS" or self._audit.opened is None:
            await self._app(scope, receive, send)
            return
        scope[_NOTED] = []
        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start" and not begun:
                begun = True
                await self._audit.answered(scope, int(message["status"]))
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            if not begun:
                self._audit.unanswered(scope)


def note(scope: Scope, **fields: Any) -> None:
    """Adds fields to the audit line of a request; a second call begins a second line.

    Args:
        scope: the scope of the request.
        fields: fields of `AuditEntry` that replace those derived from the request.
    """
    noted: list[dict[str, Any]] | None = scope.get(_NOTED)
    if noted is not None:
        noted.append(fields)


def note_login(scope: Scope, tried: str, user: User | None = None) -> None:
    """Adds the name that was entered, and the user, to the audit line of a login.

    Args:
        scope: the scope of the request.
        tried: the entered name, if the server has such a user. Empty otherwise: the text may be a mistyped password.
        user: the user who logged in; None if the login is not certain yet.
    """
    noted: list[dict[str, Any]] | None = scope.get(_NOTED)
    if noted is not None:
        whose = {"who": user.name, "who_id": user.id, "role": user.role} if user else {}
        noted[:] = [{**whose, "details": {"tried": tried or "(unknown)"}}]


def outcome_of(action: Action, status: int) -> Outcome | None:
    """Returns the outcome of a request from its HTTP status; None if the request was only redirected."""
    if 300 <= status < 400 and status != 304:
        return "done" if status == 303 and action.name in ("login", "logout") else None
    if status < 400:
        return "done"
    return "refused" if status in _REFUSED else "failed"


def settings_of(config: ServerConfig, conf: Mapping[str, str]) -> dict[str, str]:
    """Returns the settings that differ from the defaults, for the audit log. Secrets are replaced by "(secret)".

    Args:
        config: the server's settings.
        conf: all `--conf` settings. Those that begin with `server_` are ignored, because `config` contains them.
    """
    own = {f"server_{key}": str(value) for key, value in config.model_dump(exclude_defaults=True).items()}
    others = {key: value for key, value in conf.items() if not key.startswith("server_")}
    return {key: "(secret)" if _SECRET.search(key) else value for key, value in sorted({**own, **others}.items())}


def _changed_settings(audit: AuditLog, now: dict[str, str]) -> list[str]:
    """Returns the names of the settings that changed since the last start, and stores the present settings."""
    file = audit.files.folder / _SETTINGS
    try:
        before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else now
        before = before if isinstance(before, dict) else {}
        audit.files.folder.mkdir(parents=True, exist_ok=True)
        write_json(now, file)
    except (OSError, ValueError) as error:
        log.warning("%s cannot be used: %s", file, error)
        return []
    return sorted(key for key in {*before, *now} if before.get(key) != now.get(key))


@router.get("/audit", summary="Lines of the audit log, for admins", response_class=Response)
def show_audit(
    request: Request,
    since: str = "",
    study: str = "",
    who: str = "",
    action: str = "",
    limit: Annotated[int, Query(ge=1, le=_MAX_LINES)] = 1000,
) -> Response:
    """Returns JSON Lines, the newest last.

    `since`: the earliest UTC time (its beginning is enough). `study`: name or hash. `who`: name or id of a user. `action`: for
    example `label.save`, or `label` for all actions on label maps.
    """
    audit: Audit = request.app.state.audit
    if audit.opened is None:
        raise ConflictError("audit log", "is not open yet.", "Try again in a moment.")
    found = lines(audit.opened.files.folder.parent, LineQuery(since, study, who, action, limit))
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in found)
    return Response(text, media_type="application/jsonl", headers={"Cache-Control": "no-store"})
