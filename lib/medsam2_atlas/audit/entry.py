"""An entry of the audit log: a person's action on a study, and its outcome."""

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
    """An entry of the audit log.

    Attributes:
        action: the action, such as `label.save`; docs/audit-log.md lists all actions.
        who: the person's name for display.
        who_id: the person's unique id.
        role: the person's role.
        study: the name of the study.
        tag: the tag of the label map.
        version: the version of the label map, or of the server.
        outcome: the outcome of the action.
        status: the HTTP status.
        place: the address of the client, or `command line`.
        request: the id of the request.
        details: further JSON values. They must not contain names of studies.
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
        """Returns the content of a line: texts are shortened, and empty values left out.

        Args:
            at: the time of the action, as `utc_now` returns it.
            study: the study's name as it is written to the log, such as its keyed hash.
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
    """Returns a limited number of shortened values. JSON escapes their control characters."""
    return {_short(key): _value(value) for key, value in list(details.items())[:_MAX_DETAILS]}


def _value(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_short(item) for item in value[:_MAX_DETAILS]]
    return value if value is None or isinstance(value, (bool, int)) else _short(value)
