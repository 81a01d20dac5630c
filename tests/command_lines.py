"""Runs command lines of `medsam2-atlas` in separate processes, and reports their imports and their processor time."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from medsam2_atlas.storage import StudyStore

HEAVY = (
    "torch",
    "monai",
    "matplotlib",
    "SimpleITK",
    "scipy",
    "skimage",
    "pydicom",
    "nibabel",
    "highdicom",
    "sam2",
    "monailabel",
)
"""Libraries that take a tenth of a second or more to import."""

LIGHT = (
    ("--help",),
    *((group, "--help") for group in ("atlas", "dicom", "labels", "studies", "train", "weights")),
    ("segment", "--help"),
    ("doctor", "--help"),
    ("serve", "--help"),
    ("version",),
)

COMPLETIONS: dict[str, dict[str, str]] = {
    "bash, medsam2-atlas <TAB>": {
        "_MEDSAM2_ATLAS_COMPLETE": "complete_bash",
        "COMP_WORDS": "medsam2-atlas ",
        "COMP_CWORD": "1",
    },
    "bash, atlas build --<TAB>": {
        "_MEDSAM2_ATLAS_COMPLETE": "complete_bash",
        "COMP_WORDS": "medsam2-atlas atlas build --",
        "COMP_CWORD": "3",
    },
    "zsh, segment --<TAB>": {
        "_MEDSAM2_ATLAS_COMPLETE": "complete_zsh",
        "_TYPER_COMPLETE_ARGS": "medsam2-atlas segment --",
    },
    "fish, train unet --<TAB>": {
        "_MEDSAM2_ATLAS_COMPLETE": "complete_fish",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "_TYPER_COMPLETE_ARGS": "medsam2-atlas train unet --",
    },
}
"""The environment variables of each shell's completion, by the line that is completed."""

_PROGRAM = """
import atexit, os, sys
def write_modules():
    with open(os.environ["LOADED"], "w") as stream:
        stream.write("\\n".join(sys.modules))
atexit.register(write_modules)
os.execv = lambda *_: sys.exit(0)
sys.argv[0] = "medsam2-atlas"
from medsam2_atlas.cli import main
main()
"""
"""The installed script, except that `serve` ends when it would become the server."""


@dataclass(frozen=True)
class Ran:
    """A command line that has ended.

    Attributes:
        status: the exit status.
        output: the text on standard output and standard error.
        modules: the modules that it imported.
        seconds: processor time (user and system) of the process and of the processes that it waited for, in seconds.
    """

    status: int
    output: str
    modules: frozenset[str]
    seconds: float

    @property
    def heavy(self) -> list[str]:
        """The heavy libraries among the modules."""
        return [name for name in HEAVY if name in self.modules]


def run(arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> Ran:
    """Runs a command line until it ends, and returns the result."""
    with tempfile.TemporaryDirectory() as folder:
        loaded, printed = Path(folder) / "loaded", Path(folder) / "printed"
        with printed.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, *arguments],
                env={**os.environ, **(environment or {}), "LOADED": str(loaded)},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
            )
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        modules = frozenset(loaded.read_text().splitlines())
        return Ran(process.returncode, printed.read_text(), modules, usage.ru_utime + usage.ru_stime)


def labelled_studies(folder: Path, count: int = 3) -> Path:
    """Creates a studies folder whose label maps are in the store, and returns the folder."""
    array = np.zeros((6, 20, 20), np.int16)
    (folder / "labels" / "final").mkdir(parents=True)
    for n in range(count):
        array[2:4] = 100 + n
        sitk.WriteImage(sitk.GetImageFromArray(array), str(folder / f"case-{n}.nii.gz"))
        labels = sitk.GetImageFromArray(np.where(array > 0, 6, 0).astype(np.uint8))
        sitk.WriteImage(labels, str(folder / "labels" / "final" / f"case-{n}.nii.gz"))
    StudyStore(folder).audit()
    return folder
