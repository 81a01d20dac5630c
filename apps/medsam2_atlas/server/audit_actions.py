"""What requests do, in the words of the audit log: one table for all routes.

A route that is in neither table fails `tests/app/test_audit.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from starlette.datastructures import QueryParams

from medsam2_atlas.base.choices import FINAL

ONCE_A_MINUTE, ONCE_IN_TEN_MINUTES = 60.0, 600.0


@dataclass(frozen=True)
class Action:
    """What a request does.

    Attributes:
        name: as the audit log has it.
        study: name of the query parameter that names the study; empty if none does.
        every: seconds in which the same action of the same person on the same study is recorded once; 0 records each.
    """

    name: str
    study: str = ""
    every: float = 0.0


_Rule = tuple[tuple[str, ...], str, Action]
_READ = ("GET", "HEAD")

RECORDED: tuple[_Rule, ...] = (
    (("POST",), r"/(login|auth/token)", Action("login")),
    (("POST",), r"/logout", Action("logout")),
    (("GET",), r"/datastore/image", Action("image.read", "image", ONCE_A_MINUTE)),
    (_READ, r"/review/picture", Action("image.read", "study", ONCE_IN_TEN_MINUTES)),
    (_READ, r"/proxy/dicom/qido/(?!.*/metadata/?$).*", Action("list.read", "", ONCE_IN_TEN_MINUTES)),
    (_READ, r"/proxy/dicom/.*", Action("image.read", "", ONCE_IN_TEN_MINUTES)),
    (_READ, r"/(datastore/?|review/cases)", Action("list.read", "", ONCE_IN_TEN_MINUTES)),
    (_READ, r"/datastore/image/info", Action("image.info", "image", ONCE_A_MINUTE)),
    (("GET",), r"/datastore/label(/version|/rtstruct)?", Action("label.read", "label", ONCE_A_MINUTE)),
    (_READ, r"/datastore/label/(info|versions)", Action("label.info", "label", ONCE_A_MINUTE)),
    (("PUT",), r"/datastore/(image)?", Action("image.add", "image")),
    (("PUT",), r"/datastore/image/info", Action("image.annotate", "image")),
    (("DELETE",), r"/datastore/image", Action("image.remove", "id")),
    (("PUT",), r"/datastore/label", Action("label.save", "image")),
    (("POST",), r"/proxy/dicom/.*", Action("label.save")),
    (("PUT",), r"/datastore/label/info", Action("label.annotate", "label")),
    (("POST",), r"/datastore/label/restore", Action("label.restore", "label")),
    (("POST",), r"/datastore/label/confirm", Action("label.confirm", "label")),
    (("POST",), r"/datastore/label/accept", Action("label.accept", "label")),
    (("DELETE",), r"/datastore/label", Action("label.remove", "id")),
    (("GET",), r"/datastore/dataset", Action("export.dataset")),
    (("GET",), r"/model/(?!info/)(?P<model>[^/]+)", Action("export.weights")),
    (("PUT",), r"/model/(?P<model>[^/]+)", Action("weights.put")),
    (("POST",), r"/infer/(?P<model>[^/]+)", Action("model.run", "image")),
    (("GET",), r"/jobs/(?P<job>[^/]+)/result", Action("model.result")),
    (("DELETE",), r"/jobs/(?P<job>[^/]+)", Action("job.cancel")),
    (("PUT",), r"/session/?", Action("session.add")),
    (("GET",), r"/session/(?P<session>[^/]{1,8})[^/]*", Action("session.read", "", ONCE_A_MINUTE)),
    (("DELETE",), r"/session/(?P<session>[^/]{1,8})[^/]*", Action("session.remove")),
    (("POST",), r"/train/(?P<model>[^/]+)", Action("train.start")),
    (("DELETE",), r"/train/?", Action("train.stop")),
    (("POST",), r"/scoring/(?P<method>[^/]+)", Action("scoring.start")),
    (("DELETE",), r"/scoring/?", Action("scoring.stop")),
    (("POST",), r"/batch/infer/(?P<model>[^/]+)", Action("batch.start")),
    (("DELETE",), r"/batch/infer/?", Action("batch.stop")),
    (("GET",), r"/logs/?", Action("log.read")),
    (("GET",), r"/audit/?", Action("audit.read")),
    (("GET",), r"/metrics", Action("metrics.read", "", ONCE_IN_TEN_MINUTES)),
)
"""Requests that are recorded. The first rule that fits counts."""

NOT_RECORDED: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("HEAD",), r"/datastore/(image|label)", "whether it exists"),
    (_READ, r"/(healthz|readyz)", "tells nothing about people or studies, and is asked for all the time"),
    (_READ, r"/|/(docs|redoc)(/.*)?|/(openapi\.json|favicon\.ico)|/(static|ohif)(/.*)?", "a page without data"),
    (_READ, r"/(login|logout|auth/|auth/token/valid)", "a page without data; wrong tokens are recorded as refused"),
    (_READ, r"/review", "a page without data, which asks /review/cases"),
    (_READ, r"/review/(?!cases|picture).*", "a part of a page, without data"),
    (_READ, r"/info/?", "models and counts"),
    (("GET",), r"/model/info/[^/]+", "a checksum"),
    (("POST",), r"/activelearning/[^/]+", "names the next case; reading its image is recorded"),
    (("GET",), r"/jobs(/[^/]+(/events)?)?", "how far jobs are; their start and their results are recorded"),
    (("GET",), r"/(train|scoring|batch/infer)/?", "how far it is; its start and end are recorded"),
)
"""Requests that are not recorded unless they are refused, and why."""

REFUSED = Action("access.refused", "", ONCE_A_MINUTE)
"""A refused request (401, 403) that no rule of `RECORDED` has an action for."""

_SERIES = re.compile(r"/series/(?P<uid>[0-9.]{1,64})(/|$)")
_DICOM_STUDY = re.compile(r"/studies/(?P<uid>[0-9.]{1,64})(/|$)")


def action_of(method: str, path: str) -> tuple[Action, dict[str, str]] | None:
    """Returns the action of a request and what its path names; None if it is not recorded.

    Args:
        method: of the request.
        path: without the root path.
    """
    for methods, rule, action in RECORDED:
        match = re.fullmatch(rule, path) if method in methods else None
        if match:
            return action, match.groupdict()
    return None


def study_of(action: Action, path: str, query: QueryParams) -> str:
    """Returns the study that a request names; empty if it names none. For series of a PACS, the series' UID."""
    if action.study:
        return query.get(action.study, "")
    if not path.startswith("/proxy/dicom/"):
        return ""
    found = _SERIES.search(path)
    if found:
        return found["uid"]
    named = query.get("seriesUID") or query.get("SeriesInstanceUID")
    found = _DICOM_STUDY.search(path)
    return named or (found["uid"] if found else query.get("studyUID", ""))


def version_of(action: Action, query: QueryParams) -> int | None:
    """Returns the version of the label map that a request names; None if it names none."""
    text = query.get("version", "") if action.name.startswith("label.") else ""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None


def tag_of(action: Action, query: QueryParams) -> str:
    """Returns the tag of the label map that a request is about; `final` where a request needs to name none."""
    if not action.name.startswith("label.") or not action.study:
        return ""
    return query.get("tag") or FINAL
