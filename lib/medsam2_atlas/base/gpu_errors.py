"""Tells a lack of GPU memory from other failures of a GPU, by the errors of PyTorch and of CUDA's libraries."""

from __future__ import annotations

import torch

_OUT_OF_MEMORY = (
    "out of memory",  # CUDA's runtime and driver, when a context or a kernel is loaded
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",  # cuBLAS and cuDNN report this if there is no memory for their handles
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "CUFFT_ALLOC_FAILED",
    "unable to find an engine to execute this computation",  # cuDNN, if no algorithm's workspace fits
    "Unable to find a valid cuDNN algorithm",
)
_ALLOCATOR = ("NVML_SUCCESS", "CUDACachingAllocator")
"""Texts that appear together if the allocator is out of memory and NVML is unavailable (MIG instances, some containers).

See https://github.com/pytorch/pytorch/issues/112377.
"""
_FAILED = (
    *("CUDA error", "CUDA driver error", "cuDNN error", "CUBLAS_STATUS_", "CUDNN_STATUS_", "cusolver error", "nvrtc: error"),
    *("device-side assert", "Triton Error [CUDA]", "No CUDA GPUs are available", "HIP error"),
)


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error or one of its causes means that a GPU's memory does not suffice."""
    return any(
        isinstance(one, torch.OutOfMemoryError)
        or (isinstance(one, RuntimeError) and (_names(one, _OUT_OF_MEMORY) or all(text in str(one) for text in _ALLOCATOR)))
        for one in _chain(error)
    )


def is_gpu_failure(error: BaseException) -> bool:
    """Returns whether an error or one of its causes is a failure of the GPU that is not a lack of memory."""
    return not is_out_of_memory(error) and any(isinstance(one, RuntimeError) and _names(one, _FAILED) for one in _chain(error))


def first_line(error: BaseException) -> str:
    """Returns the first line of the GPU's error message; the other lines are hints for developers."""
    gpu = next((one for one in _chain(error) if isinstance(one, RuntimeError)), error)
    return (str(gpu).splitlines() or [type(gpu).__name__])[0][:200]


def _names(error: BaseException, texts: tuple[str, ...]) -> bool:
    message = str(error)
    return any(text in message for text in texts)


def _chain(error: BaseException) -> list[BaseException]:
    """Returns an error and its causes; libraries wrap the errors of their parts."""
    found: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in found:
        found.append(one)
        one = one.__cause__ or one.__context__
    return found
