"""One way to read a configuration file: YAML into a pydantic model that refuses what it does not know."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from medsam2_atlas.base.errors import InputError

M = TypeVar("M", bound=BaseModel)


def read_config(model: type[M], file: Path, what: str, remedy: str = "") -> M:
    """The configuration in a file; `what` names its kind in the error, `remedy` what to do.

    Raises:
        InputError: not readable, or not valid parameters.
    """
    try:
        return model.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")) or {})
    except ValidationError as error:
        raise InputError(file, f"is not a valid {what}: {problems_of(error)}.", remedy) from error
    except (OSError, yaml.YAMLError) as error:
        raise InputError(file, f"is not a valid {what}: {error}", remedy) from error


def problems_of(error: ValidationError) -> str:
    """Returns the problems of a configuration in one line, each with the name of its setting."""
    told = ((".".join(map(str, problem["loc"])), problem["msg"]) for problem in error.errors())
    return "; ".join(f"{where}: {message}" if where else message for where, message in told)


class Settings(BaseModel):
    """Settings that tune a method; they cannot be changed once they are read.

    A result that is stored names those settings that differ from their defaults, and only those: so it is found again as
    long as nobody has changed one, whatever settings later versions add.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    def changed(self) -> dict[str, Any]:
        """Returns the settings that differ from their defaults; see `differing`."""
        return differing(self)


def differing(config: BaseModel) -> dict[str, Any]:
    """Returns the settings of a configuration that differ from their defaults, as JSON has them; parts that are
    configurations themselves are looked into. A setting without a default always counts."""
    found: dict[str, Any] = {}
    content = config.model_dump(mode="json")
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if not field.is_required() and value == field.get_default(call_default_factory=True):
            continue
        found[name] = differing(value) if isinstance(value, BaseModel) else content[name]
    return found
