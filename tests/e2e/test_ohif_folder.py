"""Tests OHIF on a studies folder, without a PACS: the voxels and positions in the viewer's own volume are those of the file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from app.cases import listed
from app.running import server
from oriented_files import ORIENTATIONS, direction_of, rotation, small_ct

browser = pytest.importorskip("e2e.browser")

pytestmark = pytest.mark.skipif(browser.chromium_program() is None, reason="Chromium is not installed")

_OFTEN = ("LPS", "RAS", "LAS", "SAR", "oblique")
"""Studies that are opened in each run of the tests; all others only in slow ones."""
_VOLUME = """() => {
    const engine = window.cornerstone && window.cornerstone.getRenderingEngines()[0];
    const viewport = engine && engine.getViewports().find(one => one.getImageData && one.getImageData());
    const data = viewport && viewport.getImageData();
    const volume = data && window.cornerstone.cache.getVolumes
        ? window.cornerstone.cache.getVolumes().find(one => one.volumeId && !one.volumeId.includes('seg')) : null;
    if (!volume || !volume.loadStatus || !volume.loadStatus.loaded) { return null; }
    return {
        dimensions: Array.from(volume.dimensions), spacing: Array.from(volume.spacing), origin: Array.from(volume.origin),
        direction: Array.from(volume.direction), voxels: Array.from(volume.voxelManager.getCompleteScalarDataArray()),
    };
}"""


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, sitk.Image]:
    cts = {code: small_ct(direction_of(code), seed, (24, 20, 16)) for seed, code in enumerate(ORIENTATIONS)}
    cts["oblique"] = small_ct(rotation((12.0, -9.0, 23.0)) @ direction_of("LAS"), 9, (24, 20, 16))
    return cts


@pytest.fixture(scope="module")
def url(studies: dict[str, sitk.Image], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("studies")
    for name, image in studies.items():
        sitk.WriteImage(image, str(folder / f"{name}.nii.gz"))
    with server(folder, tmp_path_factory.mktemp("server"), {"learning": "false", "server_hu": "as-is"}) as client:
        yield client.get_server_url().rstrip("/")


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    with browser.browser_page() as page:
        yield page


def opened(page: Any, url: str, study: str) -> dict[str, Any]:
    """Opens a study as the worklist does, and returns the viewer's volume once it is loaded."""
    page.goto(f"{url}{listed(url)[study]['viewer']}", wait_until="domcontentloaded")
    page.wait_for_function(_VOLUME, timeout=90_000)
    found: dict[str, Any] = page.evaluate(_VOLUME)
    return found


@pytest.mark.parametrize(
    "study", [*_OFTEN, *(pytest.param(code, marks=pytest.mark.slow) for code in ORIENTATIONS if code not in _OFTEN)]
)
def test_the_viewer_s_volume_has_the_voxels_and_positions_of_the_file(
    page: Any, url: str, studies: dict[str, sitk.Image], study: str
) -> None:
    shown, image = opened(page, url, study), studies[study]
    columns, rows, slices = shown["dimensions"]
    voxels = np.array(shown["voxels"], float).reshape(slices, rows, columns)
    axes = np.array(shown["direction"]).reshape(3, 3)  # one axis after the other
    expected = sitk.GetArrayFromImage(image)
    assert voxels.size == expected.size
    indices = np.stack(np.meshgrid(*(np.arange(n) for n in (columns, rows, slices)), indexing="ij"), -1).reshape(-1, 3)
    places = np.array(shown["origin"]) + (indices * np.array(shown["spacing"])) @ axes
    inverse = np.linalg.inv(np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing()))
    found = (places - np.array(image.GetOrigin())) @ inverse.T
    assert np.abs(found - np.rint(found)).max() < 1e-3
    x, y, z = np.rint(found).astype(int).T
    np.testing.assert_array_equal(voxels[indices[:, 2], indices[:, 1], indices[:, 0]], expected[z, y, x])
    assert len({*zip(x.tolist(), y.tolist(), z.tolist(), strict=True)}) == expected.size
