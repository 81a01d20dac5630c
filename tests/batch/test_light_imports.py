"""What a batch imports before its first case: resuming 10,000 cases takes seconds, and a scheduler stays small."""

from __future__ import annotations

import subprocess
import sys

import pytest

from batch_cases import environment


def imported(*modules: str) -> set[str]:
    """Returns the packages that are imported with modules, in a process of their own."""
    program = f"import sys, {', '.join(modules)}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment())
    return set(ran.stdout.split())


def test_a_scheduler_imports_neither_pytorch_nor_image_libraries() -> None:
    pytest.importorskip("distributed")
    found = imported("medsam2_atlas.batch.dask_worker", "medsam2_atlas.batch.job", "medsam2_atlas.batch.outcomes")
    assert "distributed" in found
    assert not found & {"torch", "monai", "SimpleITK", "scipy", "pydicom"}


def test_a_batch_without_a_unet_does_not_import_monai() -> None:
    found = imported("medsam2_atlas.batch.run", "medsam2_atlas.batch.shipping", "medsam2_atlas.segmenters.strategies")
    assert "torch" in found
    assert "monai" not in found
