"""Settings of all steps from a target to its score maps; `configs/fusion.yaml` has their values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from medsam2_atlas.base.choices import Fusion
from medsam2_atlas.base.configuration import OldKeys, Settings, read_config
from medsam2_atlas.base.overlay import read_once
from medsam2_atlas.base.resource import resource
from medsam2_atlas.scoremaps.alignment import AlignConfig
from medsam2_atlas.scoremaps.bending import BendConfig
from medsam2_atlas.scoremaps.correction import CorrectConfig
from medsam2_atlas.scoremaps.evidence import EvidenceConfig
from medsam2_atlas.scoremaps.intensities import HistogramConfig
from medsam2_atlas.scoremaps.restoring import RestoreConfig
from medsam2_atlas.scoremaps.thresholds import ThresholdsConfig
from medsam2_atlas.scoremaps.voting import VoteConfig
from medsam2_atlas.scoremaps.warping import WarpConfig

_VOTE = ("method", "references", "radius", "power", "beta", "ridge")
_CORRECT = {name: name for name in ("rounds", "spread", "weight", "smoothing", "rounding", "decay", "reach")} | {
    "most": "max_evidence"
}
_BEND = {name: name for name in ("rounds", "steps", "rate", "cell", "knots", "stiffness", "blur")} | {"most": "max_evidence"}
"""The names of settings in files of the previous release and in stored predictions, with their current names."""


def _correction_rounds(rounds: Any) -> Mapping[str, Any]:
    """Returns the current settings for a number of correction rounds; in old files, 0 rounds disabled bending too."""
    return {"correct.rounds": rounds} | ({"bend.enabled": False} if rounds == 0 else {})


_OLD_KEYS: OldKeys = {
    **{name: f"vote.{name}" for name in _VOTE},
    **{f"appearance.bending.{old}": f"bend.{new}" for old, new in _BEND.items()},
    **{f"appearance.{old}": f"correct.{new}" for old, new in _CORRECT.items()},
    "appearance.rounds": _correction_rounds,
}


def _section(model: type[Settings], about: str) -> Any:
    return Field(model.model_validate({}), description=about)


class FusionConfig(Settings):
    """How score maps are made: one section per step, in the order of the steps, and settings that steps share."""

    align: AlignConfig = _section(AlignConfig, "registers the target to the common space")
    vote: VoteConfig = _section(VoteConfig, "fuses the references' labels in the common space")
    warp: WarpConfig = _section(WarpConfig, "warps the votes to the target")
    restore: RestoreConfig = _section(RestoreConfig, "restores organs that shrank because the target lacks their contrast")
    bend: BendConfig = _section(BendConfig, "moves all maps jointly to fit the target's intensities")
    correct: CorrectConfig = _section(CorrectConfig, "corrects the maps by the target's intensities")
    evidence: EvidenceConfig = _section(EvidenceConfig, "measures the evidence for the confidence of prompts")
    thresholds: ThresholdsConfig = _section(ThresholdsConfig, "reads the thresholds that are stored with the atlas")
    histograms: HistogramConfig = _section(HistogramConfig, "how HU are counted, for the steps `restore`, `bend` and `correct`")

    @property
    def uses_intensities(self) -> bool:
        """Whether the target's intensities change the score maps."""
        return any(step.enabled and step.rounds > 0 for step in (self.bend, self.correct))

    def with_method(self, method: Fusion) -> FusionConfig:
        """Returns the same settings with another label fusion."""
        return self.model_copy(update={"vote": self.vote.model_copy(update={"method": method, "enabled": True})})

    def as_registered(self) -> FusionConfig:
        """Returns the same settings without the steps that use the target's intensities."""
        steps = {name: getattr(self, name).model_copy(update={"enabled": False}) for name in ("bend", "correct")}
        return self.model_copy(update=steps)

    def provenance(self) -> dict[str, Any]:
        """Returns the settings under the names that stored predictions use.

        These are the names of the first release, so that earlier predictions are found again. Newer settings are omitted if
        they have their defaults.
        """
        bends = self.bend.enabled and self.bend.rounds > 0
        corrects = self.correct.enabled and self.correct.rounds > 0
        found: dict[str, Any] = {name: getattr(self.vote, name) for name in _VOTE} | {"method": self.vote.label_fusion}
        bending = {old: getattr(self.bend, new) for old, new in _BEND.items()}
        if corrects and not bends:
            bending["rounds"] = 0
        found["appearance"] = {old: getattr(self.correct, new) for old, new in _CORRECT.items()} | {"bending": bending}
        if not corrects:
            found["appearance"]["rounds"] = 0
        named = {"vote": {*_VOTE, "enabled"}, "bend": {*_BEND.values(), "enabled"}, "correct": {*_CORRECT.values(), "enabled"}}
        added = {
            section: {name: value for name, value in settings.items() if name not in named.get(section, ())}
            for section, settings in self.changed().items()
        }
        if bends and not corrects:
            added["bend"] = added.get("bend", {}) | {"enabled": True}
        return found | {section: settings for section, settings in added.items() if settings}


@read_once
def fusion_config(file: Path | None = None) -> FusionConfig:
    """Returns the settings in `configs/fusion.yaml`, or in another file.

    Raises:
        InputError: the file does not contain valid settings.
    """
    return read_config(FusionConfig, file or resource("configs/fusion.yaml"), "fusion configuration", old_keys=_OLD_KEYS)
