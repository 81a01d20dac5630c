"""Makes a generation: an installation of the checked-out version with the files of its users. See README.md.

    python tests/compatibility/make.py [CHECKOUT]

Takes about five minutes on 2 cores. The Python that runs it must have the libraries of that version.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PLACE = Path("/tmp/medsam2_atlas-generation")
"""The folder of the installation. It is always the same, because its files contain this path."""
LIBRARIES = ("numpy", "torch", "monai", "monailabel", "pydicom", "highdicom", "SimpleITK", "pydantic", "nibabel")


def main() -> None:
    """Copies the checkout, and makes a generation with the copy in a second process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", nargs="?", type=Path, default=HERE.parents[1], help="of the version; default: this one")
    parser.add_argument("--in-copy", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.in_copy:
        make(arguments.checkout.resolve())
        return
    changed = _git(arguments.checkout, "status", "--porcelain", "--", "lib", "apps", "configs")
    if changed:
        sys.exit(f"{arguments.checkout} has changes that are in no commit:\n{changed}")
    if PLACE.exists():
        sys.exit(f"{PLACE} exists: another generation is being made, or was. Remove it.")
    tree = PLACE / "installation"
    paths = [tree / "lib", tree / "apps" / "medsam2_atlas", HERE.parent]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_WAIT_POLICY": "PASSIVE"}
    sys.path.insert(0, str(HERE.parent))
    from compatibility.installation import Installation

    Installation.make(arguments.checkout, tree, PLACE / "home")
    command = [sys.executable, __file__, str(arguments.checkout), "--in-copy"]
    sys.exit(subprocess.run(command, env=environment, check=False).returncode)


def make(checkout: Path) -> None:
    """Writes the generation into a folder next to this file."""
    import numpy as np

    from compatibility.facts import answers, dense_maps, maps_of
    from compatibility.generations import ARCHIVE, EXPECTED, MADE_BY, MAPPED, MAPS, Generation, in_use
    from compatibility.installation import Installation
    from compatibility.story import tell
    from medsam2_atlas.base import resource
    from medsam2_atlas.base.version import package_version

    home = PLACE / "home"
    assert resource._CHECKOUT == PLACE / "installation", f"{resource._CHECKOUT} would be used instead of the copy"
    notes = tell(Installation(PLACE / "installation", home))
    commit = _git(checkout, "log", "-1", "--format=%H", "--", "lib", "apps", "configs")
    day = _git(checkout, "log", "-1", "--format=%cs", commit)
    folder = HERE / f"{day}-{commit[:7]}"
    folder.mkdir(exist_ok=True)
    made_by = {
        "commit": commit,
        "version": package_version(),
        "date": _git(checkout, "log", "-1", "--format=%cI", commit),
        "python": platform.python_version(),
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "home": str(home),
        "notes": notes,
    }
    _write(folder / MADE_BY, made_by)
    _pack(home, folder / ARCHIVE)
    # The answers come from a copy, because collecting them may change files, which would then be packed too.
    with tempfile.TemporaryDirectory() as scratch:
        copy = Generation(folder).unpack(Path(scratch) / "home")
        with in_use(copy, made_by["version"], Path(scratch) / "settings"):
            _write(folder / EXPECTED, answers(copy, notes))
            np.savez_compressed(folder / MAPS, **dense_maps(maps_of(copy, MAPPED)))
    print(f"{folder} written. {PLACE} is not needed any more.")


def _pack(home: Path, archive: Path) -> None:
    """Packs files with their times; equal files are adjacent, so that they compress well."""

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        return entry

    files = sorted(home.rglob("*"), key=lambda file: (not file.is_dir(), file.suffix, file.name, str(file)))
    with tarfile.open(archive, "w:xz", format=tarfile.PAX_FORMAT, preset=9) as stream:
        for file in files:
            stream.add(file, str(file.relative_to(home)), recursive=False, filter=plain)


def _write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


def _git(checkout: Path, *command: str) -> str:
    return subprocess.run(["git", "-C", str(checkout), *command], capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
