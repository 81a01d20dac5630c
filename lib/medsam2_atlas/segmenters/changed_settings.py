"""Lists the settings and options that a result depends on and that differ from their defaults, for its provenance.

Those at their defaults are omitted, so that stored results remain valid when a later release adds one. Results of early
releases have no entry `settings`; they are used regardless of the settings. The number of the release represents changes of
the program.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from medsam2_atlas.base.configuration import differing
from medsam2_atlas.imaging.hu_config import hu_check_config
from medsam2_atlas.medsam2.config import medsam2_config
from medsam2_atlas.prompting import confidence_config, priors_config, prompting_config
from medsam2_atlas.registration import registration_config
from medsam2_atlas.segmenters.base import DEFAULTS, Options
from medsam2_atlas.segmenters.joint_config import joint_fusion_config
from medsam2_atlas.segmenters.marked_config import marks_config
from medsam2_atlas.unet.inference_config import unet_inference_config


def changed_options(options: Options, *names: str) -> dict[str, Any]:
    """Returns the named options that differ from their defaults, by name.

    >>> changed_options(Options(loop="published"), "loop", "mode")
    {'loop': 'published'}
    """
    return {name: value for name in names if (value := getattr(options, name)) != getattr(DEFAULTS, name)}


def foundation_settings(*, network: bool = True, unet: bool = False, joint: bool = False) -> dict[str, Any]:
    """Returns the changed settings of a strategy under the key `settings`; empty if all have their defaults.

    Args:
        network: whether the strategy runs MedSAM2; the strategy `atlas` does not.
        unet: whether a U-Net gives its prompts.
        joint: whether it fuses score maps with the network, as strategy F does.
    """
    rooms: dict[str, BaseModel] = {"hounsfield": hu_check_config(), "registration": registration_config()}
    rooms |= {"prompting": prompting_config(), "priors": priors_config(), "confidence": confidence_config()}
    rooms |= {"medsam2": medsam2_config()} if network else {}
    rooms |= {"joint_fusion": joint_fusion_config()} if joint else {}
    return _changed(rooms | ({"unet": unet_inference_config()} if unet else {}))


def unet_settings() -> dict[str, Any]:
    """Returns the changed settings of a U-Net under the key `settings`; empty if all have their defaults."""
    return _changed({"hounsfield": hu_check_config(), "unet": unet_inference_config()})


def marked_settings() -> dict[str, Any]:
    """Returns the changed settings of segmentation from marks under the key `settings`; empty if all have their defaults."""
    return _changed({"hounsfield": hu_check_config(), "medsam2": medsam2_config(), "marks": marks_config()})


def _changed(rooms: dict[str, BaseModel]) -> dict[str, Any]:
    found = {room: changed for room, config in rooms.items() if (changed := differing(config))}
    return {"settings": found}
