"""One way to read a configuration file: YAML into a pydantic model that refuses what it does not know."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

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
