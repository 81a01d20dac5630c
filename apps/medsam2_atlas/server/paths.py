"""Removes absolute paths of this server from its answers.

Errors, reports, process states and the log contain paths for the operator. Clients get `[studies]/ct.nii.gz` or
`[server]/ct.nii.gz` instead: `without_paths` changes texts, and `PathsMiddleware` changes every text answer.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from monailabel.config import settings
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medsam2_atlas.base.resource import model_folder, resource, state_folder
from server.config import server_config
from server.root_path import FIRST_SEGMENTS, path_of

_TEXTS = ("application/json", "application/jsonl", "text/html", "text/plain")
_PACS = "/proxy/dicom/"
"""Answers of the PACS pass unchanged, in pieces, because they contain no paths of this machine. The server's own answers below
this route already contain none (`server.errors`, `server.stow`)."""
_OURS = (b"location", b"set-cookie", b"content-security-policy")
"""Headers with URL paths that this server writes."""
_LARGE_BYTES = 200_000
"""Larger answers are searched in a thread, so that other requests do not wait for them."""
_END = rb"(?![\w\-]|\.\w)"
_TAIL = rb"[^\s\"'`\\,;:<>()\[\]{}|]*"
_BEFORE = re.compile(rb"[\w.\-/<]$")
"""Characters that do not precede a path. After them, the text is part of a word, a URL, another path or an HTML tag."""
_ESCAPE = re.compile(rb"(?<!\\)(\\\\)*\\[nrtbf]$")
"""An escaped control character in JSON. Its letter does not belong to a word."""
_NAMES = {
    "studies": ("MONAI_LABEL_STUDIES",),
    "app": ("MONAI_LABEL_APP_DIR",),
    "sessions": ("MONAI_LABEL_SESSION_PATH",),
    "cache": ("MONAI_LABEL_DICOMWEB_CACHE_PATH",),
}


def without_paths(text: str) -> str:
    """Returns a text without absolute paths of this machine.

    >>> without_paths("cannot read /etc/fstab")
    'cannot read [server]/fstab'
    """
    return _without(text.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")


class PathsMiddleware:
    """Removes absolute paths of this machine from all text answers and all headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start: Message | None = None  # of a text answer, which is collected before it is sent
        events = False
        parts: list[bytes] = []

        async def sending(message: Message) -> None:
            nonlocal start, events
            if message["type"] == "http.response.start":
                message["headers"] = [
                    (name, value if name.lower() in _OURS else _without(value)) for name, value in message["headers"]
                ]
                headers = Headers(scope=message)
                kind = headers.get("content-type", "").partition(";")[0].strip().lower()
                events = kind == "text/event-stream"
                text = kind in _TEXTS and not path_of(scope).startswith(_PACS)
                if text and "content-encoding" not in headers and scope["method"] != "HEAD":
                    start = message
                    return
            elif message["type"] == "http.response.body" and events:  # each body is a whole event, which must be sent at once
                message = {**message, "body": _without(message.get("body", b""))}
            elif message["type"] == "http.response.body" and start is not None:
                parts.append(message.get("body", b""))
                if message.get("more_body", False):
                    return
                whole = b"".join(parts)
                body = await run_in_threadpool(_without, whole) if len(whole) > _LARGE_BYTES else _without(whole)
                if body != whole:
                    MutableHeaders(scope=start)["content-length"] = str(len(body))
                await send(start)
                message = {"type": "http.response.body", "body": body}
            await send(message)

        await self._app(scope, receive, sending)


def _without(text: bytes) -> bytes:
    pattern, names = _patterns()
    return pattern.sub(lambda found: _replacement(found, names), text)


def _replacement(found: re.Match[bytes], names: Mapping[bytes, bytes]) -> bytes:
    """Returns the replacement of a path: the name of its folder in brackets, or `[server]/` and its last part."""
    before = found.string[max(0, found.start() - 40) : found.start()]
    if _BEFORE.search(before) and not before.endswith(b"file://") and not _ESCAPE.search(before):
        return found.group()
    name = names.get(found.group())
    return b"[%s]" % name if name is not None else b"[server]/" + found.group().rstrip(b"/.").rpartition(b"/")[2]


@cache
def _patterns() -> tuple[re.Pattern[bytes], Mapping[bytes, bytes]]:
    """Returns the pattern of all absolute paths, and the names of folders that have one."""
    names: dict[bytes, bytes] = {}
    for name, folder in _folders():
        for spelled in {str(folder), json.dumps(str(folder))[1:-1]}:
            names.setdefault(os.fsencode(spelled), name.encode())
    known = b"|".join(re.escape(folder) for folder in sorted(names, key=len, reverse=True))
    top = b"|".join(re.escape(os.fsencode(entry)) for entry in _top_folders())
    return re.compile(b"(?:" + known + b")" + _END + b"|/(?:" + top + b")" + _END + _TAIL), names


def _folders() -> Iterator[tuple[str, Path]]:
    """Yields the known folders and their names; if a folder appears twice, the first name applies."""
    for name, keys in _NAMES.items():
        yield from ((name, folder) for key in keys for folder in _spelled(str(getattr(settings, key, "") or "")))
    for key, value in settings.MONAI_LABEL_APP_CONF.items():
        for part in str(value).split(","):
            if Path(part).is_absolute() and key != "server_root_path":
                yield from ((key.removeprefix("server_"), folder) for folder in _spelled(part))
    for name, place in (
        ("state", state_folder()),
        ("models", model_folder()),
        ("medsam2_atlas", resource("apps/medsam2_atlas").parents[1]),
        ("python", Path(sys.prefix)),
        ("python", Path(sys.base_prefix)),
        ("temp", Path(tempfile.gettempdir())),
        ("home", Path.home()),
    ):
        yield from ((name, folder) for folder in _spelled(str(place)))


def _spelled(text: str) -> Iterator[Path]:
    """Yields a folder's absolute path, as written and with resolved links; nothing for a URL or the root folder."""
    if not text or "://" in text:
        return
    for folder in (Path(text).absolute(), Path(text).resolve()):
        if folder != Path("/"):
            yield folder


def _top_folders() -> list[str]:
    """Returns the top-level folders of this machine, except names with which a route begins."""
    listed = {
        *(entry.name for entry in Path("/").iterdir()),
        "etc",
        "home",
        "mnt",
        "opt",
        "proc",
        "root",
        "srv",
        "tmp",
        "usr",
        "var",
    }
    root_path = server_config(settings.MONAI_LABEL_APP_CONF).root_path
    return sorted(listed - set(FIRST_SEGMENTS) - set(root_path.split("/")), key=lambda entry: (-len(entry), entry))
