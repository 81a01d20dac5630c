"""The rows of `medsam2-atlas doctor` about PyTorch's build, the NVIDIA driver and the GPUs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from medsam2_atlas.base.card_look import Card, Look

LIMIT = 120.0
"""Seconds after which the check of the GPUs counts as hanging. It usually takes a few seconds, mostly to import PyTorch."""


class Row(NamedTuple):
    """A line of the table; `good` means that the user need not do anything."""

    what: str
    state: str
    remedy: str = ""
    good: bool = True


def device_rows() -> Iterator[Row]:
    """Yields the rows about PyTorch's build and the devices; a CPU build is not searched for GPUs."""
    import torch

    from medsam2_atlas.base.card_problems import cpu_build
    from medsam2_atlas.base.cards import has_cuda_build

    processor = Row("device", f"cpu, threads: {torch.get_num_threads()}")
    if not has_cuda_build():
        yield Row("PyTorch", "build for CPUs only", cpu_build().remedy if _may_have_card() else "")
        yield processor
        return
    try:
        found = _look()
    except (subprocess.TimeoutExpired, ChildProcessError) as error:
        yield _failed(error)
        yield processor
        return
    yield _build(found)
    for card in found.cards:
        yield Row("device", f"{_described(card)}{_result(card)}", card.trial.remedy, not card.trial.problem)
    if not found.cards and not _hidden() and (_may_have_card() or not found.cause.absent):
        yield Row("device", f"no card: {found.cause.problem}", found.cause.remedy, good=False)
    if all(card.trial.problem for card in found.cards):
        yield processor


def _look() -> Look:
    """Checks the GPUs in another process, so that a broken driver can hang or crash only that process.

    Raises:
        subprocess.TimeoutExpired: the process hangs.
        ChildProcessError: the process failed.
    """
    from medsam2_atlas.base.card_look import Look

    command = [sys.executable, "-m", "medsam2_atlas.base.card_look"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        printed, errors = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        with suppress(subprocess.TimeoutExpired):  # a process that hangs in the driver survives even SIGKILL
            process.communicate(timeout=1)
        raise
    if process.returncode != 0:
        lines = errors.strip().splitlines()
        raise ChildProcessError(lines[-1] if lines else f"exit status {process.returncode}")
    return Look.parse(printed.strip().splitlines()[-1])


def _failed(error: Exception) -> Row:
    what = f"has not finished within {LIMIT:.0f} s" if isinstance(error, subprocess.TimeoutExpired) else f"crashed ({error})"
    remedy = "Check whether `nvidia-smi` works, and restart the machine. Until then, use --device cpu."
    return Row("device", f"the test of a GPU kernel {what}", remedy, good=False)


def _build(found: Look) -> Row:
    import torch

    from medsam2_atlas.base.card_problems import NO_DRIVER, hidden_cards

    build = f"build for CUDA {torch.version.cuda}" if torch.version.cuda else "build for ROCm"
    driver = f"driver {found.driver}" if found.driver else "no driver" if found.cause == NO_DRIVER else ""
    return Row("PyTorch", ", ".join(filter(None, (build, driver, hidden_cards()))))


def _hidden() -> bool:
    """Returns whether the user hides all GPUs from this process; the row about the build reports it."""
    from medsam2_atlas.base.card_problems import HIDING

    return os.environ.get(HIDING) in ("", "-1")


def _may_have_card() -> bool:
    from medsam2_atlas.base.cards import shows_card

    return shows_card() or shutil.which("nvidia-smi") is not None


def _described(card: Card) -> str:
    capability = f", compute capability {card.capability}" if card.capability else ""
    memory = f", {card.free / 2**30:.1f} of {card.total / 2**30:.1f} GiB free" if card.total else ""
    return f"{card.device}: {card.name}{capability}{memory}"


def _result(card: Card) -> str:
    if card.trial.full:
        return "; has too little free memory to test a kernel"
    return f"; cannot be used: {card.trial.problem}" if card.trial.problem else "; runs kernels"
