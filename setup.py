"""Puts what lies beside the package in a checkout (configurations, weights, the app) into wheels."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithResources(build_py):
    """Copies the folders that `medsam2_atlas.resource` looks for; an editable install finds them in the checkout."""

    folders = ("configs", "weights", "apps/medsam2_atlas")

    def run(self) -> None:
        """Builds the package, then adds the folders."""
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "medsam2_atlas" / "resources"
            for name in self.folders:
                ignore = shutil.ignore_patterns("__pycache__", "model", "lib", "logs", "bin")
                shutil.copytree(name, target / name, dirs_exist_ok=True, ignore=ignore)


setup(cmdclass={"build_py": BuildWithResources})
