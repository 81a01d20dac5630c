"""How an atlas is built and how it grows: what a caller may choose."""

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
    """How an atlas is built.

    Attributes:
        missing: what it means that a label map lacks an organ: not annotated, so the reference is left out of that organ's
            average ("unknown"), or not present in the patient ("absent").
        hu: how the values of the CTs become HU.
        registration: registration parameters; those of `configs/registration.yaml` by default.
        table: the organs; those of `configs/labels.yaml` by default.
    """

    missing: MissingOrgan = "unknown"
    hu: HuRule = CHECK
    registration: RegistrationConfig = field(default_factory=lambda: registration_config())
    table: OrganTable = field(default_factory=lambda: organ_table())


@dataclass(frozen=True)
class GrowthOptions:
    """How an atlas grows.

    Attributes:
        exclude: names that are not to be references, of the base too.
        trust: names that are accepted even if they are outliers.
        hu: how the values of the CTs become HU. If the atlas grew by another rule, its final references are read again.
        strict: raise the error of the first case that cannot be used; outliers are refused all the same.
        cache: where registrations are kept, so that a relabelled or once refused case is not registered again.
        registration: registration parameters; those of `configs/registration.yaml` by default.
        table: the organs; those of `configs/labels.yaml` by default.
        config: limits for outliers; those of `configs/atlas.yaml` by default.
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
        """How an atlas is built without a base."""
        return BuildOptions(hu=self.hu, registration=self.registration, table=self.table)
