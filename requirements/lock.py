"""Writes the lock files, which pin one tested version of each package with the hashes of its files (`make lock`).

| file | packages |
| --- | --- |
| `common.txt` | the requirements of `pyproject.toml` except torch |
| `torch-cpu.txt` | the CPU build of torch |
| `torch-cuda.txt` | PyPI's torch, which is a CUDA build, and the CUDA libraries that it requires |
| `bundled.txt` | `monailabel` and `sam2`, and packages that must be built on the machine |
| `dev.txt` | additional packages for tests, lint, `make lock` and `make sbom` |

uv resolves the versions for Linux and each supported Python. It keeps the locked versions unless they no longer fit
(`--upgrade` takes the newest versions). PyPI does not have the CPU builds of torch. Their hashes come from PyTorch's index or
from a folder of wheels (`--cpu-torch`); they are added to the hashes of the same version in `torch-cpu.txt`. The result does
not depend on the machine's GPU: `make install` chooses between the two locks of torch.
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
_NOT_CUDA = ("nvidia-ml-py",)  # a requirement of CodeCarbon in pure Python, which needs no GPU
_BUILT = ("antlr4-python3-runtime", "iopath", "timeloop")
"""Packages without wheels. They are built with the locked setuptools instead of one that pip would download."""

Lock = dict[str, list[str]]
"""Requirements in the format of requirements.txt, by package; several for a package if Python versions need different ones."""


def main() -> None:
    """Writes all lock files."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cpu-torch", default=CPU_INDEX, help="web page or folder with the CPU builds of torch")
    parser.add_argument("--upgrade", action="store_true", help="use the newest versions")
    options = parser.parse_args()
    known = {name: read(FOLDER / f"{name}.txt") for name in ("common", "torch-cpu", "torch-cuda", "bundled", "dev")}
    before = {} if options.upgrade else {**known["dev"], **known["bundled"], **known["torch-cuda"], **known["common"]}
    everything = resolve([str(PROJECT), "--group", "dev"], before)
    runtime = resolve([str(PROJECT)], everything, exactly=True)
    dev = {name: lines for name, lines in everything.items() if lines != runtime.get(name)}
    built = {name: runtime.pop(name) for name in _BUILT}
    cuda = {name: runtime.pop(name) for name in list(runtime) if name.startswith(_CUDA) and name not in _NOT_CUDA}
    version = re.match(r"torch==([^ +]+)", cuda["torch"][0])
    assert version, cuda["torch"]
    cpu = {"torch": [cpu_torch(version[1], options.cpu_torch, known["torch-cpu"].get("torch", []))]}
    bundled = resolve(["--group", f"{PROJECT}:bundled", "--no-deps"], before)
    write("common", runtime, "The project's requirements except torch.")
    write("torch-cpu", cpu, "The CPU build of torch.", f"--no-index --find-links {CPU_INDEX}")
    write("torch-cuda", cuda, "PyPI's torch, and the CUDA libraries that it requires.")
    write("bundled", built | bundled, "Packages that are installed last, with --no-build-isolation.")
    write("dev", dev, "Additional packages for tests, lint, `make lock` and `make sbom`.")


def resolve(what: list[str], before: Lock, exactly: bool = False) -> Lock:
    """Resolves requirements with uv.

    Args:
        what: requirements as arguments of `uv pip compile`.
        before: versions to prefer.
        exactly: whether only these versions are allowed.
    """
    command = [sys.executable, "-m", "uv", "pip", "compile", *what, "--universal", "--python-version", "3.10"]
    command += ["--python", sys.executable, "--no-python-downloads", "--generate-hashes", "--no-annotate", "--no-header", "-q"]
    pins = "".join(f"{line}\n" for lines in before.values() for line in lines)
    out = FOLDER / ".resolved.part"
    constraints = FOLDER / ".constraints.part"
    try:
        out.write_text("" if exactly else pins, encoding="utf-8")
        constraints.write_text(pins if exactly else "", encoding="utf-8")
        subprocess.run([*command, "-c", str(constraints), "-o", str(out)], cwd=PROJECT.parent, check=True)
        return read(out)
    finally:
        out.unlink(missing_ok=True)
        constraints.unlink(missing_ok=True)


def read(file: Path) -> Lock:
    """Returns the requirements in a lock file; empty if the file does not exist."""
    found: Lock = {}
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    environments = re.search(r'^environments = \["(.+)"\]', PROJECT.read_text(encoding="utf-8"), re.MULTILINE)
    everywhere = environments[1].split(" and ") if environments else []  # conditions that hold wherever the locks are used
    for line in text.replace("\\\n", "").splitlines():
        if name := re.match(r"([A-Za-z0-9._-]+)==", line):
            for clause in everywhere:
                line = line.replace(f" and {clause}", "").replace(f"{clause} and ", "").replace(f" ; {clause} ", " ")
            found.setdefault(name[1], []).append(re.sub(r" +", " ", line.strip()))
    return found


def cpu_torch(version: str, place: str, known: list[str]) -> str:
    """Returns torch's line for `torch-cpu.txt`.

    Args:
        version: version of torch.
        place: web page or folder with the CPU builds.
        known: lines of the existing `torch-cpu.txt`, whose hashes of this version are kept.
    """
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
            print(f"{place} cannot be read ({error}); the hashes in torch-cpu.txt are kept", file=sys.stderr)
        else:
            hashes |= {f"sha256:{found}" for found in re.findall(rf"{wheel}#sha256=(\w+)", page)}
    if not hashes:
        sys.exit(f"{place} has no CPU build of torch {version}. Name a folder that has one: make lock CPU_TORCH=FOLDER")
    return " ".join([f"torch=={version}", *(f"--hash={h}" for h in sorted(hashes))])


def write(name: str, lock: Lock, what: str, option: str = "") -> None:
    """Writes a lock file with one hash on each line; `what` describes it, `option` is an option for pip."""
    lines = [f"# {what} Written by `make lock`.", *([option] if option else [])]
    for package in sorted(lock):
        lines += [line.replace(" --hash=", " \\\n    --hash=") for line in lock[package]]
    file = FOLDER / f"{name}.txt"
    part = file.with_suffix(".part")
    part.write_text("\n".join(lines) + "\n", encoding="utf-8")
    part.rename(file)


if __name__ == "__main__":
    main()
