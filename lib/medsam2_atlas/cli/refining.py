"""`medsam2-atlas propagate --mask`: refines the labels of a given label map."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medsam2_atlas.base.progress import Progress, part

if TYPE_CHECKING:
    import numpy as np

    from medsam2_atlas.base.choices import Loop
    from medsam2_atlas.imaging.volume import Volume
    from medsam2_atlas.medsam2 import MedSAM2Volume


def refined_logits(
    engine: MedSAM2Volume,
    volume: Volume,
    mask: Volume,
    prompts: Path | None,
    *,
    loop: Loop,
    fill_holes: bool,
    progress: Progress,
) -> dict[str, np.ndarray]:
    """Returns the logits of each label of a label map and of the prompts.

    Args:
        engine: the CT, prepared for MedSAM2.
        volume: the CT, `[z, y, x]`.
        mask: the label map, `[z, y, x]` on the grid of the CT.
        prompts: JSON file of boxes and points; None if there is none.
        loop: the propagation loop of labels that are not in the label map.
        fill_holes: whether small holes of such labels are filled.
        progress: called with the stage and the fraction completed.

    Returns:
        By label, the logits `[n, y, x]` of its slices, ± 10 on slices that stay as they are; by `z_min_LABEL`, the first slice.

    Raises:
        InputError: the label map is empty, or the prompts cannot be used.
    """
    import numpy as np

    from medsam2_atlas.base.errors import InputError
    from medsam2_atlas.prompting.mask_marks import LabelMarks, read_label_marks
    from medsam2_atlas.segmenters.refined import refined_mask

    given = read_label_marks(prompts, volume.geometry) if prompts is not None else {}
    in_mask = np.setdiff1d(np.unique(mask.array), [0]).tolist()
    if not in_mask:
        raise InputError(mask.source, "is empty.", "Give a label map with at least one organ, or leave out --mask.")
    alone = {k: given[k].alone(prompts) for k in given if k not in in_mask and prompts is not None}
    found: dict[str, np.ndarray] = {}
    rows_columns = (volume.array.shape[1], volume.array.shape[2])
    share = len(in_mask) / (len(in_mask) + len(alone))
    for n, k in enumerate(in_mask):
        organ = given.get(k, LabelMarks(k)).with_mask(mask.array == k, str(mask.source))
        result = refined_mask(
            volume, engine, organ, progress=part(progress, share * n / len(in_mask), share * (n + 1) / len(in_mask))
        )
        found[str(k)] = np.stack([result.plane(z).numpy() for z in range(organ.z_min, organ.z_max + 1)])
        found[f"z_min_{k}"] = np.array(organ.z_min)
    segmented = engine.segment(list(alone.values()), loop=loop, fill_holes=fill_holes, progress=part(progress, share, 1))
    for k, logits in segmented.items():
        planes = [logits.plane(logits.z_min + n, rows_columns).numpy() for n in range(len(logits.values))]
        found[str(k)], found[f"z_min_{k}"] = np.stack(planes), np.array(logits.z_min)
    return found
