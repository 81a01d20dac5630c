"""Checkpoints load strictly, and tensors that do not fit are named."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from legacy import seeded_state
from medsam2_atlas.base.errors import UnavailableError, WeightsError
from medsam2_atlas.base.progress import silent
from medsam2_atlas.cli import app
from medsam2_atlas.cli.download import download
from medsam2_atlas.medsam2 import OFFICIAL, find_checkpoint, load_config, load_weights


@pytest.fixture(scope="module")
def official_state() -> dict[str, torch.Tensor]:
    return seeded_state(load_config(OFFICIAL))


@pytest.fixture(scope="module")
def official_file(official_state: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("weights") / "MedSAM2_latest.pt"
    torch.save({"model": official_state}, file)
    return file


def test_a_checkpoint_of_the_official_form_loads_unchanged(
    official_file: Path, official_state: dict[str, torch.Tensor]
) -> None:
    weights = load_weights(official_file)
    assert weights.sha256 == hashlib.sha256(official_file.read_bytes()).hexdigest()
    assert weights.mark == ""
    loaded = weights.network.state_dict()
    assert list(loaded) == list(official_state)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in official_state.items())
    assert len(loaded) == 471
    assert sum(p.numel() for p in weights.network.parameters()) == 38_962_498  # MedSAM2's own count


def test_a_missing_an_unknown_and_a_misshapen_tensor_are_named(official_state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    state = dict(official_state)
    del state["memory_encoder.out_proj.bias"]
    state["surprise.weight"] = torch.zeros(1)
    state["no_mem_embed"] = torch.zeros(1, 1, 8)
    torch.save({"model": state}, tmp_path / "w.pt")
    with pytest.raises(WeightsError) as caught:
        load_weights(tmp_path / "w.pt")
    for words in ("memory_encoder.out_proj.bias", "surprise.weight", "no_mem_embed [1, 1, 8] instead of [1, 1, 256]"):
        assert words in str(caught.value)


def test_code_in_a_checkpoint_is_never_run(tmp_path: Path) -> None:
    torch.save({"model": Path("x")}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="contains code besides weights"):
        load_weights(tmp_path / "w.pt")


def test_the_shipped_demo_weights_fit_and_are_marked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MEDSAM2_CHECKPOINT", raising=False)
    monkeypatch.setenv("MEDSAM2_ATLAS_MODELS", str(tmp_path))
    file = find_checkpoint()
    assert file.stat().st_size <= 10_000_000
    assert load_weights(file).mark == "demo weights: synthetic phantoms only"


def test_checkpoints_are_searched_in_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MEDSAM2_CHECKPOINT", raising=False)
    monkeypatch.setenv("MEDSAM2_ATLAS_MODELS", str(tmp_path))
    with pytest.raises(WeightsError, match="weights fetch"):
        find_checkpoint(demo=False)
    for name in ("MedSAM2_latest.pt", "environment.pt", "given.pt"):
        (tmp_path / name).touch()
    assert find_checkpoint().name == "MedSAM2_latest.pt"
    monkeypatch.setenv("MEDSAM2_CHECKPOINT", str(tmp_path / "environment.pt"))
    assert find_checkpoint().name == "environment.pt"
    assert find_checkpoint(tmp_path / "given.pt").name == "given.pt"
    with pytest.raises(WeightsError, match="not a file"):
        find_checkpoint(tmp_path / "typo.pt")


def test_the_official_shapes_are_printed_as_json() -> None:
    shapes = json.loads(CliRunner().invoke(app, ["weights", "shapes"]).stdout)
    assert len(shapes) == 471
    assert shapes["maskmem_tpos_enc"] == [7, 1, 1, 64]


class RangeHandler(SimpleHTTPRequestHandler):
    """A handler that serves files and parts of them, as model hubs do."""

    def do_GET(self) -> None:
        content = Path(self.translate_path(self.path)).read_bytes()
        start = int(self.headers.get("Range", "bytes=0-")[6:].rstrip("-"))
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "w.pt").write_bytes(bytes(range(256)) * 40)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(RangeHandler, directory=str(tmp_path / "hub")))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/w.pt"
    server.shutdown()


@pytest.mark.parametrize("have", [0, 5000, 10240])
def test_an_interrupted_download_resumes(hub: str, have: int, tmp_path: Path) -> None:
    content = bytes(range(256)) * 40
    if have:
        (tmp_path / "w.pt.partial").write_bytes(content[:have])
    download(hub, tmp_path / "w.pt", silent)
    assert (tmp_path / "w.pt").read_bytes() == content
    assert not (tmp_path / "w.pt.partial").exists()


def test_an_unreachable_server_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="cannot be downloaded"):
        download("http://127.0.0.1:9/w.pt", tmp_path / "w.pt", silent)
    assert not (tmp_path / "w.pt").exists()
