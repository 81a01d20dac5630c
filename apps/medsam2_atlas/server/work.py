"""Routes that start work in a separate process (training, scoring, batches), and the upload of weights.

Names are checked before a process starts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Body, File, HTTPException, UploadFile
from monailabel.config import settings
from monailabel.endpoints import batch_infer, scoring, train
from monailabel.interfaces.tasks.batch_infer import BatchInferImageType
from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.async_tasks.utils import processes

from medsam2_atlas.base.device import work_device
from medsam2_atlas.segmenters.registry import trainable
from medsam2_atlas.storage import WorkFolder
from server.forms import LimitedRoute
from server.parameters import batch_parameters, scoring_parameters, training_parameters
from server.uploads import received
from tasks.batch_task import batch_state
from tasks.claims import check_training
from tasks.known import check_model, check_name
from tasks.work_device import NO_GPU

router = APIRouter(route_class=LimitedRoute)


@router.put("/model/{model}", tags=["Model"], summary="Upload weights of a U-Net")
def put_weights(model: str, file: Annotated[UploadFile, File()]) -> dict[str, Any]:
    """Checks the weights, uses them from now on, and returns their version and mark."""
    kept = received(file, ".pt")
    try:
        about: dict[str, Any] = app_instance().put_weights(model, kept)
        return about
    finally:
        kept.unlink(missing_ok=True)


@router.post("/batch/infer/{model}", tags=["Infer"], summary="Run a model on many studies, in a separate process")
def run_batch(
    model: str,
    images: BatchInferImageType = BatchInferImageType.IMAGES_ALL,
    params: Annotated[dict[str, Any] | None, Body()] = None,
) -> Any:
    """Returns the state of the process.

    `params`: the options of the model, and `images`, `label_tag`, `max_batch_size`, `max_workers`.
    """
    check_model(model, app_instance()._infers)
    checked = batch_parameters(app_instance(), model, params or {})
    uses_network = getattr(app_instance()._infers[model], "uses_network", True)
    device = _device_options() if uses_network else _without_gpu()
    options = {**device, "multi_gpu": False, **checked}
    return _started(lambda: batch_infer.run(model, images, options, False))


@router.get("/batch/infer/progress", tags=["Infer"], summary="Progress of the last run on many studies")
def batch_progress() -> dict[str, Any]:
    """Returns counts of cases, throughput and estimated time left, and whether the run is in progress.

    `running`: whether the process runs. `state`: null before the first run, else `model`, `total`, `kept`, `done`, `failed`,
    `left`, `waiting` (for another attempt), `per_hour`, `seconds_left` (null if unknown) and `updated` (seconds since 1970).
    """
    state = batch_state(WorkFolder.of(settings.MONAI_LABEL_STUDIES))
    return {"running": bool(processes("batch_infer")), "state": state}


@router.post("/train/{model}", tags=["Train"], summary="Train on signed-off label maps, in a separate process")
def run_training(
    model: str,
    params: Annotated[dict[str, Any] | None, Body()] = None,
    enqueue: bool = False,
) -> Any:
    """Starts a training process, which resumes an interrupted training.

    First ends a training whose server no longer runs. Answers 409 if another running server is training. `params`: the options
    of the trainer, and `device` (by default the server's).
    """
    check_name(model, app_instance()._trainers, "trainer")
    options = training_parameters(app_instance(), model, params or {})
    options |= _device_options(options.get("device", "")) if model in trainable() else _without_gpu()
    check_training(WorkFolder.of(settings.MONAI_LABEL_STUDIES))
    return _started(lambda: train.run_model(model, {**options, "model": model}, False, enqueue))


@router.post(
    "/scoring/{method}", tags=["Scoring"], summary="Score label maps of one tag against another, in a separate process"
)
def run_scoring(method: str, params: Annotated[dict[str, Any] | None, Body()] = None, run_sync: bool = False) -> Any:
    """Returns the state of the process; with `run_sync`, the scores.

    `/info` contains the means when the process has finished. `params`: the tags `y` and `y_pred`.
    """
    check_name(method, app_instance()._scoring_methods, "scoring method")
    options = scoring_parameters(app_instance(), method, params or {})
    return _started(lambda: scoring.run_method(method, {**options, **NO_GPU, "method": method}, run_sync))


def _device_options(requested: str = "") -> dict[str, Any]:
    """Returns the parameters for the device of networks: the requested device, or else the server's."""
    device = work_device(app_instance()._models.device, requested)
    return _without_gpu() if device.type == "cpu" else {"device": str(device)}


def _without_gpu() -> dict[str, Any]:
    return {"device": "cpu", **NO_GPU}


def _started(start: Callable[[], Any]) -> Any:
    try:
        return start()
    except HTTPException as error:
        raise HTTPException(
            429, "Such work is already running. Try again when it has ended.", headers={"Retry-After": "60"}
        ) from error
