"""Puts what lies beside the package in a checkout into wheels, and the two packages that cannot be required.

MONAI Label and sam2 name requirements that cannot be had beside NumPy 2 and CPU torch (see `dependencies` in pyproject.toml),
so no wheel can require them. A wheel brings them along instead: copies of those installed where it is built, whose files'
hashes `requirements/bundled.txt` locks.
"""

from __future__ import annotations

import re
import shutil
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.errors import SetupError

_RESOURCES = ("configs", "weights", "sample-data", "apps/demo.py", "apps/practice.py", "apps/medsam2_atlas")
_LOCK = Path("requirements/bundled.txt")
_BUNDLED = ("monailabel", "sam2")


class BuildWithResources(build_py):
    """Adds the files that `medsam2_atlas.base.resource` looks for; an editable install finds them in the checkout."""

    def run(self) -> None:
        """Builds the package, then adds the files.

        Raises:
            SetupError: a package to be bundled is not installed here, or not in the locked version.
        """
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "medsam2_atlas" / "resources"
        ignore = shutil.ignore_patterns("__pycache__", "*.pyc", "model", "lib", "logs", "bin")
        for name in _RESOURCES:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            if Path(name).is_dir():
                shutil.copytree(name, target / name, dirs_exist_ok=True, ignore=ignore)
            else:
                shutil.copy(name, target / name)
        for name in _BUNDLED:
            _bundle(_installed(name), target / "bundled")


def _installed(name: str) -> Distribution:
    locked = re.search(rf"^{name}==(\S+)", _LOCK.read_text(encoding="utf-8"), re.MULTILINE)
    if locked is None:
        raise SetupError(f"{_LOCK} has no {name}.")
    try:
        found = distribution(name)
    except PackageNotFoundError:
        found = None
    if found is None or found.version != locked[1]:
        has = f"{found.version} is installed" if found else "it is not installed"
        raise SetupError(f"A wheel brings {name} {locked[1]} along, but {has} here. Build it by `make wheel`.")
    return found


def _bundle(package: Distribution, target: Path) -> None:
    """Copies a package's modules, data, metadata and licences; not its tests, sample apps, caches and source maps."""
    name = package.metadata["Name"]
    for file in package.files or ():
        if file.parts[0] != name and not file.parts[0].endswith(".dist-info"):
            continue
        if file.suffix in (".pyc", ".map") or file.name in ("RECORD", "INSTALLER", "REQUESTED"):
            continue
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(str(package.locate_file(file)), target / file)


setup(cmdclass={"build_py": BuildWithResources})
