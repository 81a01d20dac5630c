"""The figures of one `final` version that a person drew, as the table stores them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Pair:
    """The agreement of a version with an earlier version by another person, from which it was not made.

    Attributes:
        author: name of the earlier version's author.
        author_id: unique id of that author; empty if unknown.
        number: number of the earlier version.
        same_start: whether both versions were made from the same prediction or earlier version, which makes them more alike.
        dice: Dice by organ number, 0..1, of the organs that at least one version contains.
    """

    author: str
    author_id: str
    number: int
    same_start: bool
    dice: Mapping[int, float]


@dataclass(frozen=True)
class Record:
    """The figures of a version.

    Attributes:
        study: name of the study.
        number: number of the version.
        author: name of its author; empty if unknown.
        author_id: unique id of the author; empty if unknown.
        made: time of the sign-off, ISO 8601.
        seconds: active time of the author in s; None if unknown.
        organ_seconds: active time by organ number in s, as the viewer sent it; empty if unknown.
        start: tag of the version that the author began with; empty for an empty label map; None if unknown.
        first_start: tag of the prediction that the version was made from, directly or by way of other versions; empty for an
            empty label map; None if unknown.
        edited_voxels: number of voxels by organ number that were added to or removed from the organ since the start; None if
            the start is unknown. Organs without a change have 0.
        edited_ml: the same as volume in ml.
        dice: by model and organ number, the Dice (0..1) of the model's last prediction before the study was signed off.
        predicted: by model, the numbers of the organs in that prediction.
        pairs: agreement with earlier versions by other people.
        untold: ids (or else names) of earlier authors for whom the records do not tell whether the version was made from
            theirs.
    """

    study: str
    number: int
    author: str
    author_id: str
    made: str
    seconds: float | None = None
    organ_seconds: Mapping[int, float] = field(default_factory=dict)
    start: str | None = None
    first_start: str | None = None
    edited_voxels: Mapping[int, int] | None = None
    edited_ml: Mapping[int, float] | None = None
    dice: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    predicted: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    pairs: tuple[Pair, ...] = ()
    untold: tuple[str, ...] = ()

    @property
    def person(self) -> str:
        """A text that identifies the author: the id, or else the name."""
        return self.author_id or self.author

    def as_json(self) -> dict[str, Any]:
        """Returns the record as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Record:
        """Returns the record in JSON values.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: they are not a record.
        """
        found = dict(content)
        for name in ("organ_seconds", "edited_voxels", "edited_ml"):
            found[name] = None if found[name] is None else _by_organ(found[name])
        found |= {name: str(found[name] or "") for name in ("author", "author_id", "made")}
        found["dice"] = {str(model): _by_organ(dice) for model, dice in found["dice"].items()}
        found["predicted"] = {str(model): tuple(map(int, organs)) for model, organs in found["predicted"].items()}
        found["pairs"] = tuple(Pair(**{**pair, "dice": _by_organ(pair["dice"])}) for pair in found["pairs"])
        found["untold"] = tuple(map(str, found["untold"]))
        return cls(**found)


def _by_organ(values: Mapping[str, Any]) -> dict[int, Any]:
    return {int(organ): value for organ, value in values.items()}
