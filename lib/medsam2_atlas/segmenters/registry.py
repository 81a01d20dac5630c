"""The table of all segmenters, used by the app, comparison, scoring, batches and active learning.

A new segmenter is a module with a subclass of `Segmenter`, and a line of `FAMILIES`. Importing this module does not import the
segmenters.
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
"""`prompted`: the foundation model or the atlas alone; neither needs training. `trained`: a network trained on these organs;
its masks can give prompts. `reference`: reads the ground truth. `interactive`: needs a person's marks."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,56}")
"""The operator's part of a name. With the family's prefix, it is a label tag of at most 64 characters (`storage.tag_name`)."""


@dataclass(frozen=True)
class Family:
    """A line of the table: segmenters that share a class and a model of the server.

    Attributes:
        model: name of the server's model, and tag of its stored predictions; `{name}` is replaced by the operator's part.
        names: names of its segmenters, the default first.
        source: `module:class` in this package.
        role: see `Role`.
        description: text for users; `{name}` is replaced by the operator's part.
        prefix: prefix of the names that the operator gives to folders, such as `bundle:`; replaces `names`.
        trainable: whether its networks are trained on the studies.
    """

    model: str
    names: tuple[str, ...]
    source: str
    role: Role
    description: str
    prefix: str = ""
    trainable: bool = False


FAMILIES = (
    Family(
        "medsam2_atlas",
        ("D", "F", "E", "C", "B", "A"),
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
        trainable=True,
    ),
    Family(
        "unet_2d",
        ("unet_2d",),
        "unet:UNetSegmenter",
        "trained",
        "15 abdominal organs by a two-dimensional U-Net, slice by slice",
        trainable=True,
    ),
    Family(
        "reference", ("reference-1", "reference-3"), "strategies:Strategy", "reference", "MedSAM2, prompted by the ground truth"
    ),
    Family(
        "medsam2", ("medsam2",), "marked:Marked", "interactive", "One organ by MedSAM2, from boxes and points on any slices"
    ),
    Family("bundle-{name}", (), "bundle:Bundle", "trained", "Organs by the MONAI bundle {name}", prefix="bundle:"),
    Family("nnunet-{name}", (), "nnunet:NNUNet", "trained", "Organs by the nnU-Net {name}", prefix="nnunet:"),
)
"""All segmenters. Models are listed in this order, and the first one that fits is the default."""


FOUNDATIONS = ("atlas", "medsam2_atlas")
"""The models that measure studies in the background: the first one without a GPU, because MedSAM2 then takes minutes per case;
the second one with a GPU."""


@dataclass(frozen=True)
class Model:
    """A model of the server.

    Attributes:
        tag: name of the model, and tag of its predictions.
        names: names of its segmenters, the default first.
        role: see `Role`.
        description: text for users.
    """

    tag: str
    names: tuple[str, ...]
    role: Role
    description: str


def family_of(name: str) -> Family:
    """Returns the family of a segmenter.

    Raises:
        InputError: if no segmenter has that name.
    """
    found = _found(name)
    if found is None:
        raise InputError(repr(name[:80]), "is not a segmenter.", f"Choose from: {', '.join(vocabulary())}.")
    return found


def check_folder_name(name: str) -> None:
    """Checks the name of a folder: `bundle:NAME` or `nnunet:NAME`.

    Raises:
        InputError: if it has none of these forms, or contains characters that a label tag must not contain.
    """
    found = _found(name)
    if found is None or not found.prefix:
        kinds = " or ".join(f"{family.prefix}NAME" for family in FAMILIES if family.prefix)
        remedy = f"Write {kinds}; NAME has 1 to 57 letters, digits, `_`, `-` or `.`, with a letter or digit first."
        raise InputError(repr(name[:80]), "names no folder of a segmenter.", remedy)


def model_of(name: str) -> str:
    """Returns the name of a segmenter's model on the server, which is also the tag of its predictions.

    Raises:
        InputError: if no segmenter has that name.

    >>> model_of("D"), model_of("bundle:abdomen")
    ('medsam2_atlas', 'bundle-abdomen')
    """
    family = family_of(name)
    return family.model.format(name=_own(family, name))


def vocabulary(folders: Iterable[str] = ()) -> list[str]:
    """Returns the names of all segmenters except interactive ones, in the order of the documentation.

    Args:
        folders: names of the configured folders; without folders, the result contains `bundle:NAME` and `nnunet:NAME`.
    """
    fixed = sorted(
        (name for family in FAMILIES if family.role != "interactive" for name in family.names),
        key=lambda name: (len(name) > 1 and name != "atlas", name != "atlas", name),
    )
    own = list(folders) or [f"{family.prefix}NAME" for family in FAMILIES if family.prefix]
    return [*fixed, *own]


def models(folders: Iterable[str] = (), roles: Iterable[Role] = ("prompted", "trained", "interactive")) -> list[Model]:
    """Returns the models of a server.

    Args:
        folders: names of the configured folders, such as `bundle:NAME`.
        roles: roles of the models to list.
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
    """Returns the default segmenter of a role: the first name in the first line of the table with this role."""
    return next(family.names[0] for family in FAMILIES if family.role == role and family.names)


def trainable() -> list[str]:
    """Returns the names of the networks that are trained on the studies, the preferred one first."""
    return [name for family in FAMILIES if family.trainable for name in family.names]


def ready_made(folders: Iterable[str] = ()) -> list[str]:
    """Returns the names of the networks that were trained elsewhere.

    Args:
        folders: names of the configured folders.
    """
    fixed = [name for family in FAMILIES if family.role == "trained" and not family.trainable for name in family.names]
    return [*fixed, *folders]


def make_segmenter(name: str, resources: Resources) -> Segmenter:
    """Creates a segmenter; this loads neither atlas nor networks.

    Args:
        name: name of the segmenter.
        resources: source of atlas and networks.

    Raises:
        InputError: if no segmenter has that name.
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
