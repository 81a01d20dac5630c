"""Writes docs/settings.md: every configuration file with its settings (`make settings`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from generated_part import GeneratedPart

if TYPE_CHECKING:
    from pydantic import BaseModel

PAGE = GeneratedPart("settings.md", "settings")

TITLES = {
    "hounsfield.yaml": "Check of Hounsfield units",
    "registration.yaml": "Registration",
    "fusion.yaml": "Score maps",
    "prompting.yaml": "Prompts",
    "confidence.yaml": "Confidence of prompts",
    "medsam2.yaml": "MedSAM2",
    "marks.yaml": "Organs from a person's marks",
    "open_images.yaml": "CTs that stay open",
    "unet.yaml": "U-Nets: inference",
    "unet/*.yaml": "U-Nets: network and training",
    "active_learning.yaml": "The next case",
    "evaluation.yaml": "Scores",
    "energy.yaml": "Energy and CO2e",
    "batch.yaml": "Batches",
    "server.yaml": "Server",
}


def models() -> dict[str, type[BaseModel]]:
    """Returns the models of all configuration files, by the files' names in `configs/`."""
    from medsam2_atlas.cli.configurations import configurations
    from medsam2_atlas.unet import UNetConfig
    from server.config import ServerConfig

    found: dict[str, type[BaseModel]] = {name: type(read()) for name, read in configurations().items()}
    found |= {"unet/*.yaml": UNetConfig, "server.yaml": ServerConfig}
    return {name: found[name] for name in (*TITLES, *(name for name in found if name not in TITLES))}


def content() -> str:
    """Returns a section with a table for each configuration file."""
    return "".join(section(name, model) for name, model in models().items())


def section(name: str, model: type[BaseModel]) -> str:
    """Returns the title and the table of a configuration file."""
    lines = "".join(f"| `{key}` | {default} | {meaning} |\n" for key, default, meaning in rows(model))
    title = f"{TITLES.get(name, name.removesuffix('.yaml').capitalize())}: `configs/{name}`"
    return f"## {title}\n\n| setting | default | unit and reason |\n| --- | --- | --- |\n{lines}\n"


def rows(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Yields key, default and description of each setting; the keys of nested settings are `part.setting`."""
    from pydantic import BaseModel

    for key, field in model.model_fields.items():
        part = field.annotation
        if isinstance(part, type) and issubclass(part, BaseModel):
            yield from rows(part, f"{prefix}{key}.")
            continue
        default = "required" if field.is_required() else f"`{shown(field.get_default(call_default_factory=True))}`"
        yield f"{prefix}{key}", default, (field.description or "").replace("|", "\\|")


def shown(value: Any) -> str:
    """Returns a default value in YAML."""
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(shown, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {shown(item)}' for key, item in value.items())}}}"
    if isinstance(value, bool):
        return str(value).lower()
    return '""' if value == "" else str(value)


if __name__ == "__main__":
    PAGE.write(content())
