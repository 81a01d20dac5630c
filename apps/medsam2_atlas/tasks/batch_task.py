"""Runs a model on many studies; an error of one study is reported and does not stop the others."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.batch_infer import BatchInferTask

from medsam2_atlas.base.errors import problem_of

log = logging.getLogger(__name__)


class BatchTask(BatchInferTask):
    """MONAI Label's batch task with error handling; with one worker, MONAI Label's own stops at the first failing study."""

    def __call__(
        self, request: dict[str, Any], datastore: Datastore, infer: Callable[[dict[str, Any], Datastore], dict[str, Any]]
    ) -> dict[str, Any]:
        """Returns the result for each study; the result of a study that failed has only a `problem`."""

        def infer_or_report(one: dict[str, Any], store: Datastore) -> dict[str, Any]:
            try:
                return infer(one, store)
            except Exception as error:
                log.exception("%s cannot be segmented", one.get("image"))
                return {"problem": problem_of(error)}

        results: dict[str, Any] = super().__call__(request, datastore, infer_or_report)
        return results
