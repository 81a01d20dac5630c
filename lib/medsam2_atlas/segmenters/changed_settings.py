"""Settings that differ from their defaults and that a result depends on, for its provenance.

Settings at their defaults are left out: results that earlier versions have stored are found again, and so are those of this
version when a later one has more settings. The version number stands for changes of the program.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from medsam2_atlas.base.configuration import differing
from medsam2_atlas.imaging.hu_config import hu_check_config
from medsam2_atlas.medsam2.config import medsam2_config
from medsam2_atlas.prompting import confidence_config, priors_config, prompting_config
from medsam2_atlas.registration import registration_config
from medsam2_atlas.segmenters.marked_config import marks_config
from medsam2_atlas.unet.inference_config import unet_inference_config


def foundation_settings(*, network: bool = True, unet: bool = False) -> dict[str, Any]:
    """Returns the changed settings of MedSAM2 by a strategy, as `settings`; nothing if all have their defaults.

    Args:
        network: whether MedSAM2 takes part; the atlas alone does without.
        unet: whether a U-Net prompts it.
    """
    rooms: dict[str, BaseModel] = {"hounsfield": hu_check_config(), "registration": registration_config()}
    rooms |= {"prompting": prompting_config(), "priors": priors_config(), "confidence": confidence_config()}
    rooms |= {"medsam2": medsam2_config()} if network else {}
    return _changed(rooms | ({"unet": unet_inference_config()} if unet else {}))


def unet_settings() -> dict[str, Any]:
    """Returns the changed settings of a U-Net alone, as `settings`; nothing if all have their defaults."""
    return _changed({"hounsfield": hu_check_config(), "unet": unet_inference_config()})


def marked_settings() -> dict[str, Any]:
    """Returns the changed settings of segmentation from marks, as `settings`; nothing if all have their defaults."""
    return _changed({"hounsfield": hu_check_config(), "medsam2": medsam2_config(), "marks": marks_config()})


def _changed(rooms: dict[str, BaseModel]) -> dict[str, Any]:
    found = {room: changed for room, config in rooms.items() if (changed := differing(config))}
    return {"settings": found} if found else {}
