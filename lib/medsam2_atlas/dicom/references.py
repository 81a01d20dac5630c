"""References from derived objects to images of a series: to instances, or to frames of multi-frame instances."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence

from medsam2_atlas.dicom.series import Slice


def image_reference(source: Dataset) -> Dataset:
    """Returns the reference to a slice (PS3.3, 10.3), given its header from `headers.source_headers`."""
    item = Dataset()
    if "ReferencedFrameNumber" not in source:
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
        return item
    item.ReferencedSOPClassUID = source.ReferencedSOPClassUID
    item.ReferencedSOPInstanceUID = source.ReferencedSOPInstanceUID
    item.ReferencedFrameNumber = source.ReferencedFrameNumber
    return item


def instance_references(sources: Iterable[Dataset]) -> DicomSequence:
    """Returns one reference to each instance that contains slices, in the slices' order, without frame numbers."""
    items: dict[str, Dataset] = {}
    for source in sources:
        item = image_reference(source)
        if "ReferencedFrameNumber" in item:
            del item.ReferencedFrameNumber
        items.setdefault(item.ReferencedSOPInstanceUID, item)
    return DicomSequence(items.values())


def refer_to_frames(seg: Dataset, sources: Sequence[Dataset]) -> None:
    """Makes a segmentation refer to frames of multi-frame instances instead of the single-frame images in `sources`."""
    frames = {str(source.SOPInstanceUID): source for source in sources if "ReferencedFrameNumber" in source}
    if not frames:
        return
    for groups in seg.PerFrameFunctionalGroupsSequence:
        for derivation in groups.get("DerivationImageSequence", ()):
            for item in derivation.SourceImageSequence:
                if item.ReferencedSOPInstanceUID in frames:  # segments may share an item, which may already be replaced
                    item.update(image_reference(frames[item.ReferencedSOPInstanceUID]))
    for series in seg.ReferencedSeriesSequence:
        named = [frames[item.ReferencedSOPInstanceUID] for item in series.ReferencedInstanceSequence]
        series.ReferencedInstanceSequence = instance_references(named)


def slice_numbers(slices: Sequence[Slice]) -> dict[tuple[str, int], int]:
    """Returns the index of each slice by instance UID and frame number; a single-frame image has the frame number 0."""
    return {(part.uid, 0 if part.frame is None else part.frame + 1): n for n, part in enumerate(slices) if part.uid}


def referenced(item: Dataset) -> tuple[str, int] | None:
    """Returns the instance UID and frame number that an item refers to; None if it refers to several frames.

    A single-frame image has the frame number 0, as in `slice_numbers`.
    """
    numbers = item.get("ReferencedFrameNumber")
    if numbers is None or isinstance(numbers, (int, str)):
        return str(item.ReferencedSOPInstanceUID), int(numbers or 0)
    return (str(item.ReferencedSOPInstanceUID), int(numbers[0])) if len(numbers) == 1 else None
