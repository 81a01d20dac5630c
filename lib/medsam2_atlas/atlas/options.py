"""A caller's options for building an atlas and for its growth."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from medsam2_atlas.atlas.config import AtlasConfig, atlas_config
from medsam2_atlas.base.choices import MissingOrgan
from medsam2_atlas.imaging.hounsfield import CHECK, HuRule
from medsam2_atlas.imaging.labels import OrganTable, organ_table
from medsam2_atlas.registration import RegistrationCache, RegistrationConfig, registration_config


@dataclass(frozen=True)
class BuildOptions:
    """The options for building an atlas.

    Attributes:
        missing: the meaning of an organ that is missing from a label map. `unknown`: it is not annotated, and the reference
            does not count for that organ. `absent`: the patient does not have it.
        hu: how the values of the CTs are converted to HU.
        registration: the registration parameters; those of `configs/registration.yaml` by default.
        table: the organs; those of `configs/labels.yaml` by default.
    """

    missing: MissingOrgan = "unknown"
    hu: HuRule = CHECK
    registration: RegistrationConfig = field(default_factory=lambda: registration_config())
    table: OrganTable = field(default_factory=lambda: organ_table())


@dataclass(frozen=True)
class GrowthOptions:
    """The options for the growth of an atlas.

    Attributes:
        exclude: names of cases that must not be references; references of the base with these names are removed.
        trust: names of cases that are accepted even if they are outliers.
        hu: how the values of the CTs are converted to HU. If the rule has changed, all `final` references are read again.
        strict: whether the first unusable case raises its error. Outliers are refused in any case.
        cache: stores registrations, so that a relabelled or previously refused case is not registered again.
        registration: the registration parameters; those of `configs/registration.yaml` by default.
        table: the organs; those of `configs/labels.yaml` by default.
        config: the limits for outliers; those of `configs/atlas.yaml` by default.
    """

    exclude: Collection[str] = ()
    trust: Collection[str] = ()
    hu: HuRule = CHECK
    strict: bool = False
    cache: RegistrationCache | None = None
    registration: RegistrationConfig = field(default_factory=lambda: registration_config())
    table: OrganTable = field(default_factory=lambda: organ_table())
    config: AtlasConfig = field(default_factory=lambda: atlas_config())

    @property
    def build(self) -> BuildOptions:
        """The options for building the first atlas, if there is no base."""
        return BuildOptions(hu=self.hu, registration=self.registration, table=self.table)
