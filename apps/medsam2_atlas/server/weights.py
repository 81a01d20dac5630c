"""What only admins send: weights; and a batch of predictions with defaults that work without a GPU."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from fastapi import APIRouter, Body, File, HTTPException, UploadFile
from monailabel.endpoints import batch_infer
from monailabel.interfaces.tasks.batch_infer import BatchInferImageType
from monailabel.interfaces.utils.app import app_instance

from medsam2_atlas.errors import NotFoundError
from server.uploads import received

router = APIRouter()


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
    """The process."""
    if model not in app_instance()._infers:
        raise NotFoundError(repr(model[:80]), "is no model of this server.")
    options = {"device": "cuda" if torch.cuda.is_available() else "cpu", "multi_gpu": False, **(params or {})}
    try:
        return batch_infer.run(model, images, options, False)
    except HTTPException as error:
        raise HTTPException(429, "A batch runs already.", headers={"Retry-After": "60"}) from error
