"""Functions on a cluster: the same results as in turn, in whatever order they end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from medsam2_atlas.atlas import ReferenceFiles
from medsam2_atlas.base.mapping import in_turn
from medsam2_atlas.imaging.volume import read_volume
from medsam2_atlas.registration import WorkImage, build_common_space, registration_config

pytest.importorskip("distributed")


def backwards(function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
    """Calls a function on the last argument first, as a cluster may."""
    yield from reversed(list(in_turn(function, arguments)))


def test_results_and_errors_of_a_local_cluster_are_those_of_the_functions(tmp_path: Path) -> None:
    from medsam2_atlas.batch.cluster_map import cluster_map
    from medsam2_atlas.batch.clusters import Wanted

    with cluster_map("local", Wanted(1, 1), work=tmp_path) as mapped:
        found = dict(mapped(max, [(number, 5) for number in range(20)]))
        assert found == dict(in_turn(max, [(number, 5) for number in range(20)]))
        with pytest.raises(ZeroDivisionError):
            list(mapped(divmod, [(1, 0)]))


def test_a_common_space_does_not_depend_on_the_order_in_which_registrations_end(references: list[ReferenceFiles]) -> None:
    config = registration_config()
    config = config.model_copy(update={"spacing": 12.0, "group": config.group.model_copy(update={"rounds": 2})})
    images = [WorkImage.of(read_volume(files.image), config.spacing, config.image) for files in references[:3]]
    one, other = (build_common_space(images, config, mapped=mapped) for mapped in (in_turn, backwards))
    assert torch.equal(one.template.hu, other.template.hu)
    points = one.template.points()[::4, ::4, ::4]
    for first, second in zip(one.transforms, other.transforms, strict=True):
        assert torch.equal(first(points), second(points))
