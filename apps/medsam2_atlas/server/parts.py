"""The parts that the layers and the routes of one server share."""

from __future__ import annotations

from dataclasses import dataclass

from monailabel.interfaces.utils.app import app_instance

from medsam2_atlas.base.jobs import JobQueue
from server import infer
from server.access import Access
from server.attendance import Attendance
from server.audit import Audit
from server.config import ServerConfig
from server.connections import Connections
from server.metrics import Metrics
from server.stopping import Stopping


@dataclass(frozen=True)
class Parts:
    """The parts of a server. They are created before the app and the studies are opened."""

    config: ServerConfig
    queue: JobQueue
    metrics: Metrics
    access: Access
    stopping: Stopping
    audit: Audit
    connections: Connections
    attendance: Attendance

    @classmethod
    def of(cls, config: ServerConfig) -> Parts:
        """Creates the parts for a configuration."""
        queue = JobQueue(config.queue, dispose=infer.dispose, per_person=config.queue_per_person)
        metrics = Metrics(queue.counts, lambda: app_instance().datastore().status(), lambda: app_instance()._infers)
        connections, attendance = Connections(config.connection_limits), Attendance(queue, config.gone_seconds)
        return cls(config, queue, metrics, Access(config), Stopping(), Audit(config), connections, attendance)
