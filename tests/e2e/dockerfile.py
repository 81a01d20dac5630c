"""Parses Dockerfiles without an engine."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Dockerfile:
    """A parsed Dockerfile.

    `bases`, `copies` (source in the build context, target) and `runs` are those of all stages; the other fields are those of
    the last stage.
    """

    bases: list[str] = field(default_factory=list)
    copies: list[tuple[str, str]] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = "root"
    volumes: list[str] = field(default_factory=list)
    entrypoint: list[str] = field(default_factory=list)
    healthcheck: str = ""

    @classmethod
    def of(cls, file: Path) -> Dockerfile:
        """Parses a file.

        Raises:
            KeyError: an instruction is unknown.
        """
        found: dict[str, object] = {"bases": [], "copies": [], "runs": []}
        for line in _instructions(file.read_text()):
            name, _, rest = line.partition(" ")
            if name == "FROM":
                kept = {key: found[key] for key in ("bases", "copies", "runs")}
                found = {**kept, "environment": {}, "labels": {}, "volumes": [], "entrypoint": [], "user": "root"}
            _TAKE[name](found, rest.strip())
        return cls(**found)  # type: ignore[arg-type]


def _instructions(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    return [line for line in "\n".join(lines).replace("\\\n", " ").splitlines() if line.strip()]


def _pairs(found: dict, key: str, rest: str) -> None:
    for pair in shlex.split(rest):
        name, _, value = pair.partition("=")
        found[key][name] = value


def _copy(found: dict, rest: str) -> None:
    words = rest.split()
    if any(word.startswith("--from=") for word in words):
        return
    *sources, target = [word for word in words if not word.startswith("--")]
    folder = found.get("folder", "/")
    for source in sources:
        whole = target.endswith("/")
        path = Path(folder) / target / (Path(source).name if whole else "")
        found["copies"].append((source, str(path)))


_TAKE = {
    "FROM": lambda found, rest: found["bases"].append(rest),
    "COPY": _copy,
    "RUN": lambda found, rest: found["runs"].append(rest),
    "ENV": lambda found, rest: _pairs(found, "environment", rest),
    "LABEL": lambda found, rest: _pairs(found, "labels", rest),
    "WORKDIR": lambda found, rest: found.update(folder=rest),
    "USER": lambda found, rest: found.update(user=rest),
    "VOLUME": lambda found, rest: found["volumes"].append(rest),
    "ENTRYPOINT": lambda found, rest: found.update(entrypoint=json.loads(rest)),
    "HEALTHCHECK": lambda found, rest: found.update(healthcheck=rest),
    **dict.fromkeys(("ARG", "EXPOSE", "CMD"), lambda found, rest: None),
}
