"""Lists the configuration files that tune a method, and the settings that differ from their defaults."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel


def configurations() -> dict[str, Callable[[], BaseModel]]:
    """Returns the functions that read the configuration files, by file name in `configs/`."""
    from medsam2_atlas.active_learning import active_learning_config
    from medsam2_atlas.atlas.config import atlas_config
    from medsam2_atlas.base.energy_config import energy_config
    from medsam2_atlas.batch.config import batch_config
    from medsam2_atlas.evaluation import evaluation_config
    from medsam2_atlas.imaging.hu_config import hu_check_config
    from medsam2_atlas.medsam2 import medsam2_config
    from medsam2_atlas.prompting import confidence_config, priors_config, prompting_config
    from medsam2_atlas.registration import registration_config
    from medsam2_atlas.scoremaps import fusion_config
    from medsam2_atlas.segmenters.joint_config import joint_fusion_config
    from medsam2_atlas.segmenters.marked_config import marks_config
    from medsam2_atlas.segmenters.open_images_config import open_images_config
    from medsam2_atlas.unet.inference_config import unet_inference_config

    return {
        "hounsfield.yaml": hu_check_config,
        "registration.yaml": registration_config,
        "atlas.yaml": atlas_config,
        "fusion.yaml": fusion_config,
        "prompting.yaml": prompting_config,
        "priors.yaml": priors_config,
        "confidence.yaml": confidence_config,
        "medsam2.yaml": medsam2_config,
        "joint_fusion.yaml": joint_fusion_config,
        "marks.yaml": marks_config,
        "open_images.yaml": open_images_config,
        "unet.yaml": unet_inference_config,
        "active_learning.yaml": active_learning_config,
        "evaluation.yaml": evaluation_config,
        "energy.yaml": energy_config,
        "batch.yaml": batch_config,
    }


def changed_settings() -> list[str]:
    """Returns the settings that differ from their defaults: a text `file: setting, setting` for each changed file.

    Settings that the process's overlay replaces are not the user's, and are omitted.

    Raises:
        InputError: a file contains invalid settings.
    """
    from medsam2_atlas.base.configuration import differing
    from medsam2_atlas.base.overlay import overlaid_settings

    changed = {name: _without(differing(read()), overlaid_settings(name)) for name, read in configurations().items()}
    return [f"{name}: {', '.join(settings)}" for name, settings in changed.items() if settings]


def _without(settings: dict[str, Any], replaced: dict[str, Any]) -> dict[str, Any]:
    """Returns settings without those that an overlay replaces; groups are compared setting by setting."""
    left = {}
    for name, value in settings.items():
        if isinstance(value, dict) and isinstance(replaced.get(name), dict):
            value = _without(value, replaced[name])
            if not value:
                continue
        elif name in replaced:
            continue
        left[name] = value
    return left
