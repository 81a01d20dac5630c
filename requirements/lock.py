"""Writes the locks, one tested version of every package with its files' hashes: `make lock`.

| file | what it locks |
| --- | --- |
| `common.txt` | what `pyproject.toml` asks for, but torch |
| `torch-cpu.txt` | the CPU build of torch |
| `torch-cuda.txt` | PyPI's torch, which is a CUDA build, and the CUDA libraries that it asks for |
| `bundled.txt` | `monailabel` and `sam2`, and what has to be built on the machine |
| `dev.txt` | what tests, lint, `make lock` and `make sbom` need besides |

uv resolves, for Linux and every Python that the project supports; versions that stand in a lock stay unless they no longer
fit (`--upgrade` takes the newest of all). PyPI does not have the CPU builds of torch: their hashes come from PyTorch's index,
or from a folder of wheels (`--cpu-torch`), and join those that `torch-cpu.txt` has of the same version. Nothing here depends on
the GPU of the machine: `make install` chooses between the two locks.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
PROJECT = FOLDER.parent / "pyproject.toml"
CPU_INDEX = "https://download.pytorch.org/whl/cpu/torch/"
_CUDA = ("torch", "triton", "cuda-", "nvidia-")
_NOT_CUDA = ("nvidia-ml-py",)  # CodeCarbon asks for it; it is Python, and does without a GPU
_BUILT = ("antlr4-python3-runtime", "iopath", "timeloop")
"""Packages without wheels: they are built with the locked setuptools, not with one that pip fetches for that."""

Lock = dict[str, list[str]]
"""Requirements in requirements.txt's form, by the package's name; several where Pythons differ."""


def main() -> None:
    """Writes all locks."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cpu-torch", default=CPU_INDEX, help="page or folder with the CPU builds of torch")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions")
    options = parser.parse_args()
    known = {name: read(FOLDER / f"{name}.txt") for name in ("common", "torch-cpu", "torch-cuda", "bundled", "dev")}
    before = {} if options.upgrade else {**known["dev"], **known["bundled"], **known["torch-cuda"], **known["common"]}
    everything = resolve([str(PROJECT), "--group", "dev"], before)
    runtime = resolve([str(PROJECT)], everything, exactly=True)
    dev = {name: lines for name, lines in everything.items() if lines != runtime.get(name)}  # or for other Pythons
    built = {name: runtime.pop(name) for name in _BUILT}
    cuda = {name: runtime.pop(name) for name in list(runtime) if name.startswith(_CUDA) and name not in _NOT_CUDA}
    version = re.match(r"torch==([^ +]+)", cuda["torch"][0])
    assert version, cuda["torch"]
    cpu = {"torch": [cpu_torch(version[1], options.cpu_torch, known["torch-cpu"].get("torch", []))]}
    bundled = resolve(["--group", f"{PROJECT}:bundled", "--no-deps"], before)
    write("common", runtime, "What the project needs, but torch.")
    write("torch-cpu", cpu, "The CPU build of torch.", f"--no-index --find-links {CPU_INDEX}")
    write("torch-cuda", cuda, "PyPI's torch, and the CUDA libraries that it asks for.")
    write("bundled", built | bundled, "Installed after the others, with --no-build-isolation.")
    write("dev", dev, "What tests, lint, `make lock` and `make sbom` need besides.")


def resolve(what: list[str], before: Lock, exactly: bool = False) -> Lock:
    """Resolves requirements.

    Args:
        what: uv's words for them.
        before: versions to prefer.
        exactly: whether no other versions will do.
    """
    command = [sys.executable, "-m", "uv", "pip", "compile", *what, "--universal", "--python-version", "3.10"]
    command += ["--python", sys.executable, "--no-python-downloads", "--generate-hashes", "--no-annotate", "--no-header", "-q"]
    pins = "".join(f"{line}\n" for lines in before.values() for line in lines)
    out = FOLDER / ".resolved.part"
    wanted = FOLDER / ".wanted.part"
    try:
        out.write_text("" if exactly else pins, encoding="utf-8")
        wanted.write_text(pins if exactly else "", encoding="utf-8")
        subprocess.run([*command, "-c", str(wanted), "-o", str(out)], cwd=PROJECT.parent, check=True)
        return read(out)
    finally:
        out.unlink(missing_ok=True)
        wanted.unlink(missing_ok=True)


def read(file: Path) -> Lock:
    """The requirements in a lock; none where there is no such file."""
    found: Lock = {}
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    environments = re.search(r'^environments = \["(.+)"\]', PROJECT.read_text(encoding="utf-8"), re.MULTILINE)
    everywhere = environments[1].split(" and ") if environments else []  # true wherever the locks are used
    for line in text.replace("\\\n", "").splitlines():
        if name := re.match(r"([A-Za-z0-9._-]+)==", line):
            for clause in everywhere:
                line = line.replace(f" and {clause}", "").replace(f"{clause} and ", "").replace(f" ; {clause} ", " ")
            found.setdefault(name[1], []).append(re.sub(r" +", " ", line.strip()))
    return found


def cpu_torch(version: str, place: str, known: list[str]) -> str:
    """torch's line for `torch-cpu.txt`: hashes of the CPU builds in a page or folder, and the known ones of this version."""
    same = [line for line in known if re.match(rf"torch=={re.escape(version)}[ +]", line)]
    hashes = {found for line in same for found in re.findall(r"sha256:\w+", line)}
    wheel = rf"torch-{re.escape(version)}(?:\+|%2B)cpu-[\w.-]+linux[\w.]*\.whl"
    folder = Path(place)
    if folder.is_dir():
        for file in folder.iterdir():
            if re.fullmatch(wheel, file.name):
                hashes.add(f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}")
    else:
        try:
            with urllib.request.urlopen(place, timeout=60) as answer:
                page = answer.read().decode()
        except OSError as error:
            print(f"{place} cannot be read ({error}); the hashes that torch-cpu.txt has stay", file=sys.stderr)
        else:
            hashes |= {f"sha256:{found}" for found in re.findall(rf"{wheel}#sha256=(\w+)", page)}
    if not hashes:
        sys.exit(f"No CPU build of torch {version} at {place}; name another place: make lock CPU_TORCH=FOLDER")
    return " ".join([f"torch=={version}", *(f"--hash={h}" for h in sorted(hashes))])


def write(name: str, lock: Lock, what: str, option: str = "") -> None:
    """Writes one lock, one hash a line."""
    lines = [f"# {what} Written by `make lock`.", *([option] if option else [])]
    for package in sorted(lock):
        lines += [line.replace(" --hash=", " \\\n    --hash=") for line in lock[package]]
    file = FOLDER / f"{name}.txt"
    part = file.with_suffix(".part")
    part.write_text("\n".join(lines) + "\n", encoding="utf-8")
    part.rename(file)


if __name__ == "__main__":
    main()
