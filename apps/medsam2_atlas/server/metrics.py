"""`/metrics` for Prometheus.

All labels have a fixed set of values: patterns of routes, known methods and statuses, the server's models, and as tags `final`
and the models. Everything else counts as `other`, so clients can neither fill the memory with time series nor write names into
them.
"""

from __future__ import annotations

import logging
from collections import Counter as Tally
from collections.abc import Callable, Container, Iterator
from http import HTTPStatus
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.types import Scope

from medsam2_atlas.base.choices import FINAL
from medsam2_atlas.base.jobs import Job
from server.root_path import path_of

log = logging.getLogger(__name__)

_REQUEST_BUCKETS = (0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5, 30, 120, 600)
_STAGE_BUCKETS = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
_STATUSES = frozenset({"0", *(str(status.value) for status in HTTPStatus)})
"""Known statuses. 0: the client closed the connection before an answer began. A PACS may send any number."""
_OTHER = "other"
_MAX_STAGES = 64
"""Max number of stage names. The project's own stages are few; models of the user may add more."""


class Metrics:
    """The counts of a server. Each server has its own registry, so that several servers in a process do not mix."""

    def __init__(
        self,
        queue: Callable[[], dict[str, int]],
        studies: Callable[[], dict[str, Any]],
        models: Callable[[], Container[str]] = tuple,
    ) -> None:
        """Creates the counters.

        Args:
            queue: returns the number of jobs by state.
            studies: returns MONAI Label's status of the datastore.
            models: returns the names of the server's models.
        """
        self._models, self._known_stages = models, set[str]()
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "medsam2_atlas_requests", "Requests by route and status", ("method", "route", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "medsam2_atlas_request_seconds",
            "Time to answer, by route",
            ("route",),
            buckets=_REQUEST_BUCKETS,
            registry=self.registry,
        )
        self._jobs = Counter("medsam2_atlas_jobs", "Jobs by model and final state", ("model", "state"), registry=self.registry)
        self._stages = Histogram(
            "medsam2_atlas_stage_seconds",
            "Time in each stage of a job",
            ("model", "stage"),
            buckets=_STAGE_BUCKETS,
            registry=self.registry,
        )
        self.registry.register(_Now(queue, studies, models))

    def served(self, scope: Scope, status: int, seconds: float) -> None:
        """Counts a request under its route's pattern, because paths contain study names and their number has no limit.

        Args:
            scope: the scope of the request.
            status: HTTP status of the answer; 0 if there was none.
            seconds: time from the request to the end of its answer.
        """
        route = getattr(scope.get("route"), "path", None) or ("/ohif" if path_of(scope).startswith("/ohif/") else _OTHER)
        self._requests.labels(_one_of(_METHODS, scope["method"]), route, _one_of(_STATUSES, str(status))).inc()
        self._seconds.labels(route).observe(seconds)

    def ended(self, job: Job) -> None:
        """Counts a finished job and the seconds of its stages."""
        model = _one_of(self._models(), job.kind)
        self._jobs.labels(model, job.state).inc()
        for stage, seconds in job.seconds.items():
            if len(self._known_stages) < _MAX_STAGES:
                self._known_stages.add(stage)
            self._stages.labels(model, _one_of(self._known_stages, stage)).observe(seconds)

    def text(self) -> bytes:
        """Returns all metrics in Prometheus' format."""
        return bytes(generate_latest(self.registry))


class _Now(Collector):
    """The metrics that are read at the time of a request."""

    def __init__(
        self,
        queue: Callable[[], dict[str, int]],
        studies: Callable[[], dict[str, Any]],
        models: Callable[[], Container[str]],
    ) -> None:
        self._queue, self._studies, self._models = queue, studies, models

    def describe(self) -> list[Any]:
        """Returns no metrics, so that registration reads none."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yields the present numbers of jobs, studies and label maps."""
        jobs = GaugeMetricFamily("medsam2_atlas_queue", "Running and waiting jobs", labels=["state"])
        for state, count in self._queue().items():
            jobs.add_metric([state], count)
        yield jobs
        try:
            status = self._studies()
        except Exception:  # requests and jobs are still counted
            log.exception("studies cannot be counted")
            return
        cases = GaugeMetricFamily("medsam2_atlas_studies", "Studies: total, and signed off", labels=["state"])
        for state in ("total", "completed"):
            cases.add_metric([state], status.get(state, 0))
        yield cases
        labels = GaugeMetricFamily("medsam2_atlas_labels", "Studies with a label map, by tag", labels=["tag"])
        counts: Tally[str] = Tally()  # users choose tags freely
        for tag, count in status.get("label_tags", {}).items():
            counts[tag if tag == FINAL else _one_of(self._models(), tag)] += count
        for tag, count in counts.items():
            labels.add_metric([tag], count)
        yield labels


def _one_of(known: Container[str], value: str) -> str:
    return value if value in known else _OTHER
