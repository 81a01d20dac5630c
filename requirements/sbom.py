"""Writes the packages of the environment that runs this file, except developers' tools, as CycloneDX JSON (`make sbom`)."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from lock import FOLDER, PROJECT, read

_OWN_TOOLS = ("pip",)


def main(target: Path) -> None:
    """Writes the file without the packages that only `dev.txt` locks, and without the dependencies on them."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".part-{target.name}")
    command = [sys.executable, "-m", "cyclonedx_py", "environment", sys.executable, "--pyproject", str(PROJECT)]
    try:
        subprocess.run([*command, "--output-reproducible", "--of", "JSON", "-o", str(part)], check=True)
        bill = json.loads(part.read_text(encoding="utf-8"))
        used = {name for lock in ("common", "bundled", "torch-cpu", "torch-cuda") for name in read(FOLDER / f"{lock}.txt")}
        left_out = {name for name in read(FOLDER / "dev.txt") if name not in used}.union(_OWN_TOOLS)
        bill["components"] = [item for item in bill["components"] if _normal(item["name"]) not in left_out]
        kept = {item["bom-ref"] for item in bill["components"]} | {bill["metadata"]["component"]["bom-ref"]}
        bill["dependencies"] = [
            item | ({"dependsOn": [ref for ref in item["dependsOn"] if ref in kept]} if "dependsOn" in item else {})
            for item in bill["dependencies"]
            if item["ref"] in kept
        ]
        part.write_text(json.dumps(bill, indent=2) + "\n", encoding="utf-8")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    print(f"{target}: {len(bill['components'])} packages")


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
