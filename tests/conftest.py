"""Fixtures that several tests share: the sample data, a small atlas of it, tiny volumes, and real CTs if there are any."""

from __future__ import annotations

import os

# Set before PyTorch is imported, and for all processes that tests start: waiting threads must not occupy a core. Otherwise a
# registration takes five times as long if there are as many computing processes as cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:  # there are as many test processes as processors
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in ("COLUMNS", "LINES"):  # xdist sets them; tables would have that width, even if a test sets another
        os.environ.pop(name, None)

import fcntl
import hashlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import HealthCheck, settings
from omegaconf import DictConfig, OmegaConf

import blocks
import viewers
from gpu_results import Gpu
from medsam2_atlas.atlas import Atlas, BuildOptions, ReferenceFiles, build_atlas, find_references
from medsam2_atlas.base.device import pick_device
from medsam2_atlas.base.files import sha256
from medsam2_atlas.base.overlay import choose_settings, current_overlay, overlaid_settings, use_overlay
from medsam2_atlas.base.resource import resource
from medsam2_atlas.imaging.volume import Volume, from_sitk, read_labels, read_volume
from medsam2_atlas.medsam2 import OFFICIAL, load_config
from medsam2_atlas.registration import RegistrationCache

viewers.use_viewer_of_monai_label()
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
# A busy machine is no fault of the code: examples may take any time.
settings.register_profile("any speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any speed")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the option `--device`; with `--device cuda`, tests of networks on a GPU use a real GPU, not the pretended one."""
    parser.addoption("--device", default="cpu", help="cpu, cuda or cuda:N: the device of tests that run networks on a GPU")


def pytest_configure(config: pytest.Config) -> None:
    """Turns warnings of the app's modules into errors, too; their names have no common prefix."""
    for module in resource("apps/medsam2_atlas").iterdir():
        if module.suffix == ".py" or (module / "__init__.py").is_file():
            config.addinivalue_line("filterwarnings", rf"error:::{module.stem}(\.|$)")


@pytest.fixture(autouse=True)
def umask_of_the_test() -> Iterator[None]:
    """Restores the umask after each test, as commands that run in this process change it."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)


@pytest.fixture(autouse=True)
def settings_without_an_overlay() -> Iterator[None]:
    """Removes the overlay and chosen settings after each test, as commands that run in this process may use them."""
    yield
    if current_overlay() is not None:
        use_overlay(None)
    if overlaid_settings("registration.yaml"):
        choose_settings("registration.yaml", {})


@pytest.fixture(autouse=True, scope="module")
def formatters_of_the_module() -> Iterator[None]:
    """Restores the log formatters after each module, as a server in this process makes all handlers hide study names."""
    yield
    log_lines = sys.modules.get("server.log_lines")
    for handler, _ in log_lines._handlers() if log_lines else ():
        while isinstance(handler.formatter, log_lines._Formatter):
            handler.setFormatter(handler.formatter.like)


@pytest.fixture(scope="session")
def real_cts() -> Path:
    """Returns the folder of real CTs beside the checkout; skips the test if it does not exist."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "ct"
    if not folder.is_dir():
        pytest.skip("no real CTs beside the checkout")
    return folder


@pytest.fixture(scope="session")
def references() -> list[ReferenceFiles]:
    return find_references(resource("sample-data") / "references")


@pytest.fixture(scope="session")
def target_files() -> ReferenceFiles:
    return find_references(resource("sample-data") / "targets")[0]


@pytest.fixture(scope="session")
def short_files(target_files: ReferenceFiles, tmp_path_factory: pytest.TempPathFactory) -> ReferenceFiles:
    """Returns the target from the kidneys to the dome of the liver, for tests that do not need the whole abdomen."""
    folder = tmp_path_factory.mktemp("short")
    for file in (target_files.image, target_files.label):
        whole = sitk.ReadImage(str(file))
        sitk.WriteImage(whole[:, :, 74:142], str(folder / f"{file.parent.name}.nii.gz"))
    return ReferenceFiles("short", folder / "images.nii.gz", folder / "labels.nii.gz")


@pytest.fixture(scope="session")
def target(target_files: ReferenceFiles) -> Volume:
    return read_volume(target_files.image)


@pytest.fixture(scope="session")
def target_truth(target_files: ReferenceFiles, target: Volume) -> Volume:
    return read_labels(target_files.label, target)


@pytest.fixture(scope="session")
def atlas(references: list[ReferenceFiles], pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    """Returns an atlas of three references, registered in few steps. Pytest's cache keeps it until its code changes."""
    package = resource("configs").parent / "lib" / "medsam2_atlas"
    sources = [Path(blocks.__file__), package / "imaging" / "volume.py"]
    sources += [file for room in ("registration", "atlas", "scoremaps") for file in package.glob(f"{room}/**/*.py")]
    sources += [*resource("configs").glob("*.yaml"), *(file for r in references[:3] for file in (r.image, r.label))]
    digest = hashlib.sha256("".join(sha256(file) for file in sorted(sources)).encode()).hexdigest()[:16]
    folder = pytestconfig.cache.mkdir("atlas")
    kept = folder / digest
    with (folder / "lock").open("w") as lock:  # one test process builds the atlas; the other processes wait
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (kept / "atlas.json").is_file():
            build_atlas(references[:3], BuildOptions(registration=blocks.FEW_STEPS)).save(kept)
    return Atlas.load(shutil.copytree(kept, tmp_path_factory.mktemp("kept") / "atlas"))


@pytest.fixture(scope="session")
def atlas_folder(atlas: Atlas, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("atlas") / "atlas"
    atlas.save(folder)
    return folder


@pytest.fixture(scope="session")
def registrations(tmp_path_factory: pytest.TempPathFactory) -> RegistrationCache:
    """Returns a cache for all tests that need score maps of a CT, but no new registration."""
    return RegistrationCache(tmp_path_factory.mktemp("registrations"))


@pytest.fixture(scope="session")
def narrow_config() -> DictConfig:
    """Returns the official network's configuration with a third of the width and 128 x 128 slices, for fast tests."""
    config = OmegaConf.to_container(load_config(OFFICIAL))
    assert isinstance(config, dict)
    model = config["model"]
    model["image_size"] = 128
    model["image_encoder"]["trunk"]["embed_dim"] = 32
    model["image_encoder"]["neck"]["backbone_channel_list"] = [256, 128, 64, 32]
    for attention in ("self_attention", "cross_attention"):
        model["memory_attention"]["layer"][attention]["feat_sizes"] = [8, 8]
    return OmegaConf.create(config)


@pytest.fixture(scope="session")
def device(pytestconfig: pytest.Config) -> torch.device:
    """Returns the CPU, or with `--device` the real GPU in full precision, for tests that must pass on both."""
    return pick_device(pytestconfig.getoption("--device"))


@pytest.fixture(scope="session")
def gpu(device: torch.device) -> Gpu:
    """Returns a pretended GPU, or the real one with `--device`.

    It is available inside a block `with gpu() as device:`.
    """
    return Gpu(device)


@pytest.fixture
def tiny() -> Volume:
    """Returns a volume of 6 x 8 x 10 voxels (z, y, x) whose values are all different."""
    array = np.arange(480, dtype=np.float32).reshape(6, 8, 10)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1.5, 2.0, 3.0))
    image.SetOrigin((-10.0, 20.0, 30.0))
    return from_sitk(image)
