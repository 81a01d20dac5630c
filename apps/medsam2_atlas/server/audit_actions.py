"""Maps requests to the actions of the audit log. Two tables cover all routes: recorded and not recorded.

`tests/app/test_audit.py` fails for a route that is in neither table.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from starlette.datastructures import QueryParams

from medsam2_atlas.base.choices import FINAL

ONCE_A_MINUTE, ONCE_IN_TEN_MINUTES = 60.0, 600.0


@dataclass(frozen=True)
class Action:
    """An action of the audit log.

    Attributes:
        name: name in the audit log.
        study: query parameter that contains the study's name; empty if there is none.
        every: interval in seconds in which the same action of the same user on the same study is recorded only once; 0 records
            each.
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
    (_READ, r"/worklist/picture", Action("image.read", "study", ONCE_IN_TEN_MINUTES)),
    (_READ, r"/proxy/dicom/qido/(?!.*/metadata/?$).*", Action("list.read", "", ONCE_IN_TEN_MINUTES)),
    (_READ, r"/proxy/dicom/.*", Action("image.read", "", ONCE_IN_TEN_MINUTES)),
    (_READ, r"/(datastore/?|worklist/cases)", Action("list.read", "", ONCE_IN_TEN_MINUTES)),
    (_READ, r"/datastore/image/info", Action("image.info", "image", ONCE_A_MINUTE)),
    (("GET",), r"/datastore/label(/version|/rtstruct)?", Action("label.read", "label", ONCE_A_MINUTE)),
    (_READ, r"/datastore/label/(info|versions)", Action("label.info", "label", ONCE_A_MINUTE)),
    (("PUT",), r"/datastore/(image|upload)?", Action("image.add", "image")),
    (("PUT",), r"/datastore/image/info", Action("image.annotate", "image")),
    (("DELETE",), r"/datastore/image", Action("image.remove", "id")),
    (("PUT",), r"/datastore/label", Action("label.save", "image")),
    (("POST",), r"/proxy/dicom/.*", Action("label.save")),
    (("PUT",), r"/datastore/label/info", Action("label.annotate", "label")),
    (("POST",), r"/datastore/label/restore", Action("label.restore", "label")),
    (("POST",), r"/datastore/label/confirm", Action("label.confirm", "label")),
    (("POST",), r"/datastore/label/accept", Action("label.accept", "label")),
    (("POST",), r"/datastore/label/return", Action("label.return", "label")),
    (("DELETE",), r"/datastore/label", Action("label.remove", "id")),
    (("GET",), r"/annotation/case", Action("label.info", "image", ONCE_A_MINUTE)),
    (("GET",), r"/annotation/(label|compare|compare/label)", Action("label.read", "image", ONCE_A_MINUTE)),
    (("GET",), r"/compare/case", Action("label.info", "study", ONCE_A_MINUTE)),
    (("GET",), r"/compare/picture", Action("label.read", "study", ONCE_A_MINUTE)),
    (("PUT",), r"/annotation/draft", Action("draft.save", "image", ONCE_IN_TEN_MINUTES)),
    (("DELETE",), r"/annotation/draft", Action("draft.remove", "image")),
    (("POST",), r"/annotation/submit", Action("label.save", "image")),
    (("POST",), r"/annotation/changes", Action("label.read", "image", ONCE_A_MINUTE)),
    (("POST",), r"/annotation/refine", Action("model.run", "image")),
    (("POST",), r"/worklist/assign", Action("case.assign")),
    (("POST",), r"/worklist/(claim|next)", Action("case.claim", "", ONCE_A_MINUTE)),
    (("DELETE",), r"/worklist/claim", Action("case.release", "study")),
    (("GET",), r"/worklist/figures", Action("figures.read", "", ONCE_IN_TEN_MINUTES)),
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
"""Requests that are recorded. The first matching rule applies."""

NOT_RECORDED: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("HEAD",), r"/datastore/(image|label)", "whether it exists"),
    (_READ, r"/(healthz|readyz)", "contains nothing about people or studies, and is requested all the time"),
    (_READ, r"/|/(docs|redoc)(/.*)?|/(openapi\.json|favicon\.ico)|/(static|ohif|page)(/.*)?", "a page without data"),
    (_READ, r"/(figures|compare)", "a page without data; its requests are recorded"),
    (_READ, r"/(login|logout|auth/|auth/token/valid)", "a page without data; wrong tokens are recorded as refused"),
    (_READ, r"/review", "redirects to the worklist"),
    (("GET",), r"/worklist/summary", "counts, models, and the progress of the person's own jobs"),
    (_READ, r"/info/?", "models and counts"),
    (("GET",), r"/model/info/[^/]+", "a checksum"),
    (("GET",), r"/worklist/next", "names the next case; reading its image is recorded"),
    (("POST",), r"/activelearning/[^/]+", "names the next case; reading its image is recorded"),
    (("GET",), r"/jobs(/[^/]+(/events)?)?", "the progress of jobs; their start and their results are recorded"),
    (
        ("GET",),
        r"/(train|scoring|batch/infer(/progress)?)/?",
        "the progress of a task; its start and end are recorded",
    ),
)
"""Requests that are recorded only if they are refused, each with the reason."""

REFUSED = Action("access.refused", "", ONCE_A_MINUTE)
"""The action of a refused request (401, 403) that matches no rule of `RECORDED`."""

_SERIES = re.compile(r"/series/(?P<uid>[0-9.]{1,64})(/|$)")
_DICOM_STUDY = re.compile(r"/studies/(?P<uid>[0-9.]{1,64})(/|$)")


def action_of(method: str, path: str) -> tuple[Action, dict[str, str]] | None:
    """Returns the action of a request and the names in its path; None if the request is not recorded.

    Args:
        method: HTTP method, in capitals.
        path: path without the root path.

    >>> action, named = action_of("POST", "/infer/atlas")
    >>> action.name, named
    ('model.run', {'model': 'atlas'})
    """
    for methods, rule, action in RECORDED:
        match = re.fullmatch(rule, path) if method in methods else None
        if match:
            return action, match.groupdict()
    return None


def study_of(action: Action, path: str, query: QueryParams) -> str:
    """Returns the study in a request; an empty string if there is none. For a series in a PACS, it is the series UID."""
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
    """Returns the label map's version in a request; None if there is none."""
    text = query.get("version", "") if action.name.startswith("label.") else ""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None


def tag_of(action: Action, query: QueryParams) -> str:
    """Returns the tag of the label map in a request; `final` (the default) if the request contains none."""
    if not action.name.startswith("label.") or not action.study:
        return ""
    return query.get("tag") or FINAL
