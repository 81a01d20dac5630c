"""The U-Nets as segmenters: a trained network alone segments the CT."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from medsam2_atlas.base.memory import ran_on
from medsam2_atlas.base.progress import current
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.segmenters.base import DEFAULTS, Options, Provenance, Segmentation, Segmenter, Validation, base_report, only
from medsam2_atlas.segmenters.changed_settings import unet_settings
from medsam2_atlas.unet import UNet, predict


class UNetSegmenter(Segmenter):
    """The segmenter `unet_2d` or `unet_3d`. It loads the weights again after training has published better ones."""

    def check(self) -> None:
        """Loads the weights."""
        self._unet()

    def available_options(self) -> dict[str, Any]:
        """Returns the organs, and `augment`: average over rotated and scaled copies."""
        return super().available_options() | {"augment": False}

    def describe(self) -> dict[str, Any]:
        """Returns version and mark of the weights, and their Dice on validation cases."""
        unet, table = self._unet(), organ_table()
        known = {table[k].name: round(v, 4) for k, v in unet.validation.items()}
        return {"weights": unet.version, "weights_mark": unet.mark, "validation_dice": known}

    def used_weights(self) -> dict[str, Any]:
        """Returns file, checksum and mark of the weights, and the number of training cases."""
        return self._unet().describe()

    def version(self) -> str:
        """Returns the version of the weights."""
        return self._unet().version

    def weights_file(self) -> Path:
        """Returns the file of the weights."""
        return self._unet().file

    def validation(self) -> Validation:
        """Returns Dice on the validation cases, and the numbers of training cases."""
        unet = self._unet()
        return Validation(unet.validation, unet.cases)

    def provenance(self, options: Options) -> Provenance:
        """Returns the checksum of the weights, options, and the device (`memory.ran_on`)."""
        where = ran_on(self._resources.ladder.device_of(options.memory), medsam2=False, unet=True, memory=options.memory)
        found = self._basis(options) | {"augment": options.augment, "weights": self._unet().sha256}
        return found | unet_settings() | where

    def segment(self, volume: Volume, options: Options = DEFAULTS) -> Segmentation:
        """Segments a CT with sliding windows."""
        # The network stays the same for the whole run, even if training publishes new weights meanwhile.
        unet = self._resources.unet(self.name, self._resources.ladder.device_of(options.memory))
        began = time.perf_counter()
        found = predict(volume, unet, augment=options.augment, memory=options.memory, progress=current())
        seconds = time.perf_counter() - began
        labels, table = only(found.labels, options.labels), organ_table()
        report = base_report(self.name, volume, labels, options.labels).with_fields(
            strategy=self.name,
            augment=options.augment,
            confidence={table[k].name: round(v, 4) for k, v in found.confidence.items() if k in options.labels},
            seconds={"total": round(seconds, 3)},
            **ran_on(unet.device, medsam2=False, unet=True, memory=options.memory) | {"device": str(unet.device)},
            weights=unet.describe(),
            uses_truth=False,
            **({"mark": unet.mark} if unet.mark else {}),
        )
        return Segmentation(volume.with_array(labels), report)

    def _unet(self) -> UNet:
        return self._resources.unet(self.name)
