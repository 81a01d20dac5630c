"""An entry of the audit log: who did what to which study, and how it ended."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from medsam2_atlas.audit.files import MAX_LINE_BYTES

Outcome = Literal["done", "refused", "failed"]

_MAX_TEXT, _MAX_DETAILS = 256, 24


@dataclass(frozen=True)
class AuditEntry:
    """An entry.

    Attributes:
        action: what was done, such as `label.save`; docs/audit-log.md lists all actions.
        who: name of the person, as people read it.
        who_id: what tells the person apart from all others.
        role: the person's role.
        study: name of the study.
        tag: of the label map.
        version: of the label map, or of the server.
        outcome: how it ended.
        status: HTTP status.
        place: address of the client, or `command line`.
        request: id of the request.
        details: more, as JSON values. They must not hold names of studies.
    """

    action: str
    who: str = ""
    who_id: str = ""
    role: str = ""
    study: str = ""
    tag: str = ""
    version: int | None = None
    outcome: Outcome = "done"
    status: int | None = None
    place: str = ""
    request: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    def as_line(self, at: str, study: str) -> dict[str, Any]:
        """Returns the content of a line: texts are shortened, empty values are left out.

        Args:
            at: when it happened, as `utc_now` gives it.
            study: the study's name as it is written, such as its keyed hash.
        """
        line = {
            "at": at,
            "who": _short(self.who),
            "who_id": _short(self.who_id),
            "role": self.role,
            "place": _short(self.place),
            "action": self.action,
            "tag": _short(self.tag),
            "study": _short(study),
            "version": self.version,
            "outcome": self.outcome,
            "status": self.status,
            "request": self.request,
            "details": _limited(self.details),
        }
        filled = {key: value for key, value in line.items() if value not in ("", None, {})}
        if len(json.dumps(filled)) > MAX_LINE_BYTES // 2:
            filled["details"] = {"left_out": "too long"}
        return filled


def _short(text: object) -> str:
    return str(text)[:_MAX_TEXT]


def _limited(details: Mapping[str, Any]) -> dict[str, Any]:
    """Returns few and short values; JSON escapes what control characters they have."""
    return {_short(key): _value(value) for key, value in list(details.items())[:_MAX_DETAILS]}


def _value(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_short(item) for item in value[:_MAX_DETAILS]]
    return value if value is None or isinstance(value, (bool, int)) else _short(value)
