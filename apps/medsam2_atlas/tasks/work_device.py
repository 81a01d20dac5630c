"""Hides GPUs from work processes that need none, and from MONAI Label's questions.

MONAI Label trains on the first GPU, whatever the server runs on, and asks each card for its name as soon as a task is made:
that begins CUDA in processes that need no network, and a broken card keeps the server from starting.
"""

from __future__ import annotations

from types import MappingProxyType

from monailabel.tasks.infer import basic_infer
from monailabel.tasks.train import basic_train
from monailabel.utils.others import generic

NO_GPU = MappingProxyType({"gpus": "-1"})
"""Parameter that hides all GPUs from a work process: MONAI Label puts it into `CUDA_VISIBLE_DEVICES`."""


def forget_gpu_names() -> None:
    """Keeps MONAI Label from asking cards for their names: devices are named `cpu` and `cuda:N` here."""
    for module in (generic, basic_infer, basic_train):
        for function, empty in (("device_list", list), ("device_map", dict)):
            if hasattr(module, function):
                setattr(module, function, empty)
