"""Runs a model on many studies; a study that fails is reported, and the others are still segmented."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.batch_infer import BatchInferTask

from medsam2_atlas.base.errors import problem_of

log = logging.getLogger(__name__)


class BatchTask(BatchInferTask):
    """MONAI Label's batch task, without its fault: with one worker, it ends at the first study that raises an error."""

    def __call__(
        self, request: dict[str, Any], datastore: Datastore, infer: Callable[[dict[str, Any], Datastore], dict[str, Any]]
    ) -> dict[str, Any]:
        """Returns the result of each study; `problem` is the reason why one was not segmented."""

        def careful(one: dict[str, Any], store: Datastore) -> dict[str, Any]:
            try:
                return infer(one, store)
            except Exception as error:
                log.exception("%s cannot be segmented", one.get("image"))
                return {"problem": problem_of(error)}

        results: dict[str, Any] = super().__call__(request, datastore, careful)
        return results
