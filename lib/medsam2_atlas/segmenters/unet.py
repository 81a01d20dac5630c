"""The U-Nets as segmenters: a CT to a label map by a trained network alone."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from medsam2_atlas.base.memory import ran_on
from medsam2_atlas.base.progress import current
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.segmenters.base import DEFAULTS, Options, Provenance, Segmentation, Segmenter, Validation, base_report, only
from medsam2_atlas.unet import UNet, predict


class UNetSegmenter(Segmenter):
    """`unet_2d` or `unet_3d`. Weights are loaded again when training has published better ones."""

    def check(self) -> None:
        """Loads the weights."""
        self._unet()

    def offers(self) -> dict[str, Any]:
        """Returns organs, and whether results of turned and scaled copies are averaged."""
        return super().offers() | {"augment": False}

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
        """Returns Dice on validation cases, and numbers of training cases."""
        unet = self._unet()
        return Validation(unet.validation, unet.cases)

    def provenance(self, options: Options) -> Provenance:
        """Returns the checksum of the weights, options, and the device (`memory.ran_on`)."""
        where = ran_on(self._resources.ladder.device_of(options.memory), medsam2=False, unet=True, memory=options.memory)
        return self._basis(options) | {"augment": options.augment, "weights": self._unet().sha256} | where

    def segment(self, volume: Volume, options: Options = DEFAULTS) -> Segmentation:
        """Segments a CT by sliding windows."""
        # One network for the whole run, whatever training publishes meanwhile.
        unet = self._resources.unet(self.name, self._resources.ladder.device_of(options.memory))
        began = time.perf_counter()
        found = predict(volume, unet, augment=options.augment, memory=options.memory, progress=current())
        seconds = time.perf_counter() - began
        labels, table = only(found.labels, options.labels), organ_table()
        report = base_report(self.name, volume, labels, options.labels).having(
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
