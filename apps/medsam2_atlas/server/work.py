"""Work in processes of its own: training, scoring, batches; and weights. Names are checked before a process starts."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Annotated, Any

from fastapi import APIRouter, Body, File, HTTPException, UploadFile
from monailabel.config import settings
from monailabel.endpoints import batch_infer, scoring, train
from monailabel.interfaces.tasks.batch_infer import BatchInferImageType
from monailabel.interfaces.utils.app import app_instance

from medsam2_atlas.base.errors import NotFoundError
from medsam2_atlas.segmenters.registry import trainable
from medsam2_atlas.storage import WorkFolder
from server.forms import LimitedRoute
from server.parameters import batch_parameters, scoring_parameters, training_parameters
from server.uploads import received
from tasks.claims import check_training
from tasks.work_device import NO_GPU, work_device

router = APIRouter(route_class=LimitedRoute)


@router.put("/model/{model}", tags=["Model"], summary="Upload weights of a U-Net")
def put_weights(model: str, file: Annotated[UploadFile, File()]) -> dict[str, Any]:
    """Version and mark of the weights, which are checked first, and served from then on."""
    kept = received(file, ".pt")
    try:
        about: dict[str, Any] = app_instance().put_weights(model, kept)
        return about
    finally:
        kept.unlink(missing_ok=True)


@router.post("/batch/infer/{model}", tags=["Infer"], summary="Run a model on many studies, in a process of its own")
def run_batch(
    model: str,
    images: BatchInferImageType = BatchInferImageType.IMAGES_ALL,
    params: Annotated[dict[str, Any] | None, Body()] = None,
) -> Any:
    """The process. `params`: the options of the model, and `images`, `label_tag`, `max_batch_size`, `max_workers`."""
    _check(model, app_instance()._infers, "model")
    checked = batch_parameters(app_instance(), model, params or {})
    uses_network = getattr(app_instance()._infers[model], "uses_network", True)
    where = _where() if uses_network else _without_gpu()
    options = {**where, "multi_gpu": False, **checked}
    return _started(lambda: batch_infer.run(model, images, options, False))


@router.post("/train/{model}", tags=["Train"], summary="Train on what is signed off, in a process of its own")
def run_training(
    model: str,
    params: Annotated[dict[str, Any] | None, Body()] = None,
    enqueue: bool = False,
) -> Any:
    """Starts a training process, which resumes an interrupted training. Ends a training that has outlived its server first;
    answers 409 if another running server trains. `params`: the options of the trainer, and `device` (by default the
    server's)."""
    _check(model, app_instance()._trainers, "trainer")
    options = training_parameters(app_instance(), model, params or {})
    options |= _where(options.get("device", "")) if model in trainable() else _without_gpu()
    check_training(WorkFolder.of(settings.MONAI_LABEL_STUDIES))
    return _started(lambda: train.run_model(model, {**options, "model": model}, False, enqueue))


@router.post("/scoring/{method}", tags=["Scoring"], summary="Score one tag's labels against another's, in a process of its own")
def run_scoring(method: str, params: Annotated[dict[str, Any] | None, Body()] = None, run_sync: bool = False) -> Any:
    """The process; `/info` has the means once it is done. With `run_sync`, the scores themselves. `params`: the tags `y` and
    `y_pred`."""
    _check(method, app_instance()._scoring_methods, "scoring method")
    options = scoring_parameters(app_instance(), method, params or {})
    return _started(lambda: scoring.run_method(method, {**options, **NO_GPU, "method": method}, run_sync))


def _where(asked: str = "") -> dict[str, Any]:
    """Returns the parameters that say where networks run: on the server's device unless another is asked for."""
    device = work_device(app_instance()._models.device, asked)
    return _without_gpu() if device.type == "cpu" else {"device": str(device)}


def _without_gpu() -> dict[str, Any]:
    return {"device": "cpu", **NO_GPU}


def _check(name: str, known: Collection[str], what: str) -> None:
    if name not in known:
        raise NotFoundError(repr(name[:80]), f"is no {what} of this server.", f"Choose from: {', '.join(known)}.")


def _started(start: Callable[[], Any]) -> Any:
    try:
        return start()
    except HTTPException as error:
        raise HTTPException(429, "Such work runs already.", headers={"Retry-After": "60"}) from error
