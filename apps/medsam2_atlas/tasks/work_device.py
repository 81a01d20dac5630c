"""Hides GPUs from work processes that need none, and from MONAI Label's query of GPU names.

MONAI Label trains on the first GPU regardless of the server's device. It also queries the name of each GPU as soon as a task is
created, which initialises CUDA in processes that need no network; with a broken GPU, the server would not start.
"""

from __future__ import annotations

from types import MappingProxyType

from monailabel.tasks.infer import basic_infer
from monailabel.tasks.train import basic_train
from monailabel.utils.others import generic

NO_GPU = MappingProxyType({"gpus": "-1"})
"""Parameter that hides all GPUs from a work process: MONAI Label writes it to `CUDA_VISIBLE_DEVICES`."""


def forget_gpu_names() -> None:
    """Replaces MONAI Label's query of GPU names by empty lists; this project names devices `cpu` and `cuda:N`."""
    for module in (generic, basic_infer, basic_train):
        for function, empty in (("device_list", list), ("device_map", dict)):
            if hasattr(module, function):
                setattr(module, function, empty)
