"""The table of all segmenters. The app, comparison, scoring, batches and active learning go over it.

A new segmenter is a module with a subclass of `Segmenter`, and a line of `FAMILIES`. Importing this module loads none of them.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from medsam2_atlas.base.errors import InputError

if TYPE_CHECKING:
    from medsam2_atlas.segmenters.base import Resources, Segmenter

Role = Literal["prompted", "trained", "reference", "interactive"]
"""`prompted`: the foundation model or the atlas alone, which need no training. `trained`: a network of these organs, also a
source of prompts. `reference`: reads the true label map. `interactive`: needs a person's marks."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,56}")
"""The operator's part of a name. With the family before it, it is a label tag: at most 64 characters (`storage.tag_name`)."""


@dataclass(frozen=True)
class Family:
    """A line of the table.

    model: the server's model, and the tag that predictions are stored under. names: its segmenters, the default first.
    source: `module:class` in this package. role: see `Role`. description: for people. prefix: of names that an operator gives
    to folders, in place of `names`; `{name}` in model and description stands for the operator's part.
    """

    model: str
    names: tuple[str, ...]
    source: str
    role: Role
    description: str
    prefix: str = ""
    learns: bool = False


FAMILIES = (
    Family(
        "medsam2_atlas",
        ("D", "E", "C", "B", "A"),
        "strategies:Strategy",
        "prompted",
        "15 abdominal organs by MedSAM2, prompted by registered references",
    ),
    Family(
        "atlas",
        ("atlas",),
        "strategies:Strategy",
        "prompted",
        "15 abdominal organs by registered references alone, without a network",
    ),
    Family(
        "unet_3d",
        ("unet_3d",),
        "unet:UNetSegmenter",
        "trained",
        "15 abdominal organs by a three-dimensional U-Net",
        learns=True,
    ),
    Family(
        "unet_2d",
        ("unet_2d",),
        "unet:UNetSegmenter",
        "trained",
        "15 abdominal organs by a two-dimensional U-Net, slice by slice",
        learns=True,
    ),
    Family("reference", ("reference-1", "reference-3"), "strategies:Strategy", "reference", "MedSAM2, prompted by the truth"),
    Family(
        "medsam2", ("medsam2",), "marked:Marked", "interactive", "One organ by MedSAM2, from boxes and points on any slices"
    ),
    Family("bundle-{name}", (), "bundle:Bundle", "trained", "Organs by the MONAI bundle {name}", prefix="bundle:"),
    Family("nnunet-{name}", (), "nnunet:NNUNet", "trained", "Organs by the nnU-Net {name}", prefix="nnunet:"),
)
"""All segmenters. The order is that in which models are listed, and in which a default is looked for."""


FOUNDATIONS = ("atlas", "medsam2_atlas")
"""Models that studies are measured by in the background: without a GPU, on which MedSAM2 takes minutes a case, and with one."""


@dataclass(frozen=True)
class Model:
    """A model that a server offers. tag: name of the model and of its predictions. names: the default first."""

    tag: str
    names: tuple[str, ...]
    role: Role
    description: str


def family_of(name: str) -> Family:
    """Returns the family of a segmenter.

    Raises:
        InputError: no segmenter has that name.
    """
    found = _found(name)
    if found is None:
        raise InputError(repr(name[:80]), "is not a segmenter.", f"Choose from: {', '.join(vocabulary())}.")
    return found


def check_folder_name(name: str) -> None:
    """Refuses a name that no folder can have.

    Raises:
        InputError: it is not that of a family of folders, or has characters that a label tag may not have.
    """
    found = _found(name)
    if found is None or not found.prefix:
        kinds = " or ".join(f"{family.prefix}NAME" for family in FAMILIES if family.prefix)
        remedy = f"Write {kinds}; NAME has 1 to 57 letters, digits, `_`, `-` or `.`, with a letter or digit first."
        raise InputError(repr(name[:80]), "names no folder of a segmenter.", remedy)


def model_of(name: str) -> str:
    """Returns the server's model that a segmenter belongs to: the tag of its predictions.

    Raises:
        InputError: no segmenter has that name.
    """
    family = family_of(name)
    return family.model.format(name=_own(family, name))


def vocabulary(folders: Iterable[str] = ()) -> list[str]:
    """Returns the names of all segmenters, in the order in which they are documented.

    Args:
        folders: names of the folders that an operator gave; without any, a pattern stands for each kind.
    """
    fixed = sorted(
        (name for family in FAMILIES if family.role != "interactive" for name in family.names),
        key=lambda name: (len(name) > 1 and name != "atlas", name != "atlas", name),
    )
    own = list(folders) or [f"{family.prefix}NAME" for family in FAMILIES if family.prefix]
    return [*fixed, *own]


def models(folders: Iterable[str] = (), roles: Iterable[Role] = ("prompted", "trained", "interactive")) -> list[Model]:
    """Returns the models that a server offers.

    Args:
        folders: names, such as `bundle:NAME`, of the folders that its operator gave.
        roles: of the models to list.
    """
    given, requested, found = list(folders), set(roles), []
    for family in FAMILIES:
        if family.role not in requested:
            continue
        if not family.prefix:
            found.append(Model(family.model, family.names, family.role, family.description))
        for name in given if family.prefix else ():
            if name.startswith(family.prefix):
                own = _own(family, name)
                text = family.description.format(name=own)
                found.append(Model(family.model.format(name=own), (name,), family.role, text))
    return found


def preferred(role: Role) -> str:
    """Returns the default segmenter of a role: the first name in the first line of the table that has this role."""
    return next(family.names[0] for family in FAMILIES if family.role == role and family.names)


def trainable() -> list[str]:
    """Returns the names of the networks that are trained on the studies, the preferred one first. They give coarse masks."""
    return [name for family in FAMILIES if family.learns for name in family.names]


def ready_made(folders: Iterable[str] = ()) -> list[str]:
    """Returns the names of the networks that were trained elsewhere; they give coarse masks under their own names.

    Args:
        folders: names of the folders that an operator gave.
    """
    fixed = [name for family in FAMILIES if family.role == "trained" and not family.learns for name in family.names]
    return [*fixed, *folders]


def make_segmenter(name: str, resources: Resources) -> Segmenter:
    """Returns a segmenter; nothing of it is loaded yet.

    Raises:
        InputError: no segmenter has that name.
    """
    module, _, kind = family_of(name).source.partition(":")
    made: Segmenter = getattr(importlib.import_module(f"{__package__}.{module}"), kind)(name, resources)
    return made


def _found(name: str) -> Family | None:
    for family in FAMILIES:
        if name in family.names or (family.prefix and name.startswith(family.prefix) and _NAME.fullmatch(_own(family, name))):
            return family
    return None


def _own(family: Family, name: str) -> str:
    """Returns the operator's part of a name."""
    return name.removeprefix(family.prefix) if family.prefix else name
