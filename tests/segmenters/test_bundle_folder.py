"""Folders of bundles: refused folders, a bundle's own code, and weights that contain code."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bundles import inference_config, threshold_weights, tiny_bundle
from medsam2_atlas.base.errors import InputError, WeightsError
from medsam2_atlas.segmenters.base import Segmenter
from medsam2_atlas.segmenters.bundle_folder import deciding_files, load_bundle
from medsam2_atlas.studies.models import Models


def named(folder: Path) -> Segmenter:
    return Models({"device": "cpu", "bundle:own": str(folder)}).segmenter("bundle:own")


def test_a_complete_bundle_has_no_missing_requirement(tmp_path: Path) -> None:
    assert named(tiny_bundle(tmp_path / "own")).missing() == ""


def rewritten(**parts: Any) -> Callable[[Path], None]:
    """Returns a function that changes parts of a bundle's configuration; None removes a part."""

    def change(folder: Path) -> None:
        file = folder / "configs" / "inference.json"
        config = {**json.loads(file.read_text()), **parts}
        file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))

    return change


def described(**parts: Any) -> Callable[[Path], None]:
    """Returns a function that changes the description of the network's inputs and outputs in a bundle."""

    def change(folder: Path) -> None:
        file = folder / "configs" / "metadata.json"
        about = json.loads(file.read_text())
        about["network_data_format"] |= parts
        file.write_text(json.dumps(about))

    return change


def with_weights(content: Any) -> Callable[[Path], None]:
    return lambda folder: torch.save(content, folder / "models" / "model.pt")


PROBLEMS: list[tuple[Callable[[Path], None], str]] = [
    (lambda folder: (folder / "configs" / "inference.json").unlink(), r"own: has no configs/inference\.json\. Name the folder"),
    (
        lambda folder: (folder / "configs" / "inference.json").write_text("{"),
        r"inference\.json: cannot be used: JSONDecodeError",
    ),
    (lambda folder: (folder / "configs" / "metadata.json").write_text("{"), r"metadata\.json: cannot be read"),
    (lambda folder: (folder / "configs" / "metadata.json").unlink(), r"metadata\.json: names no labels\. Write organs\.yaml"),
    (
        lambda folder: (folder / "models" / "model.pt").unlink(),
        r"models/model\.pt: is missing\. Put the bundle's weights there",
    ),
    (lambda folder: (folder / "models" / "model.pt").write_bytes(b"x"), r"model\.pt: does not contain weights of the network"),
    (
        with_weights({"weight": torch.zeros(1)}),
        r"model\.pt: does not contain weights of the network in inference\.json: RuntimeError",
    ),
    (rewritten(preprocessing=None), r"inference\.json: has no `preprocessing`\."),
    (rewritten(network=None, network_def=None), r"inference\.json: has no `network`\."),
    (rewritten(network="$3"), r"has a `network` that is not a torch\.nn\.Module"),
    (rewritten(inferer={"_target_": "NoSuchInferer"}), r"cannot be used: .*NoSuchInferer.* See whether MONAI can run it"),
    (rewritten(evaluator={"_target_": "scripts.evaluator.Own"}), "needs the evaluator Own. Only bundles for MONAI's"),
    (rewritten(evaluator={"_target_": "SupervisedEvaluator", "prepare_batch": "$1"}), "needs a `prepare_batch` of its own"),
    (described(inputs={"image": {"num_channels": 2}}), "states that the network takes 2 images. Only bundles for one CT"),
    (described(inputs={"image": {}, "prior": {}}), "states that the network takes 2 images"),
    (described(outputs={"pred": {"channel_def": {"one": "liver"}}}), "does not follow MONAI's specification"),
    (described(outputs={"pred": {"channel_def": {"1": "tumour"}}}), "names no organ of the organ table: 'tumour'"),
    (
        rewritten(checkpointloader={"_target_": "CheckpointLoader", "load_path": "/elsewhere/model.pt"}),
        "/elsewhere/model.pt: is not in the bundle's folder",
    ),
]


@pytest.mark.parametrize(("spoil", "problem"), PROBLEMS)
def test_each_fault_of_a_folder_is_reported_with_its_remedy(
    spoil: Callable[[Path], None], problem: str, tmp_path: Path
) -> None:
    spoil(tiny_bundle(tmp_path / "own"))
    message = named(tmp_path / "own").missing()
    assert re.search(problem, message), message


def test_a_missing_folder_is_reported_by_name(tmp_path: Path) -> None:
    assert (
        named(tmp_path / "no").missing()
        == f"{tmp_path / 'no'}: is not a folder. Name the folder of the bundle: bundle:own=FOLDER."
    )


def test_a_broken_bundle_is_loaded_again_only_after_a_file_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, tried = named(tiny_bundle(tmp_path / "own")), []
    weights = tmp_path / "own" / "models" / "model.pt"
    content = weights.read_bytes()
    weights.write_bytes(b"broken")
    monkeypatch.setattr(
        "medsam2_atlas.segmenters.bundle.load_bundle", lambda folder: (tried.append(folder), load_bundle(folder))[1]
    )
    assert own.missing() == own.missing() != ""
    assert len(tried) == 1
    weights.write_bytes(content)
    assert own.missing() == ""
    assert own.missing() == ""
    assert len(tried) == 2


def test_checkpoints_of_any_shape_are_read(tmp_path: Path) -> None:
    handlers = [
        {"_target_": "CheckpointLoader", "load_path": "$@bundle_root + '/models/best.pt'", "load_dict": {"net": "@network"}}
    ]
    folder = tiny_bundle(tmp_path / "own", config=inference_config() | {"checkpointloader": None, "handlers": handlers})
    torch.save({"net": threshold_weights(), "epoch": 3}, folder / "models" / "best.pt")
    model = load_bundle(folder)
    assert model.weights == folder / "models" / "best.pt"
    assert torch.equal(model.network.state_dict()["bias"], threshold_weights()["bias"])


def test_a_yaml_configuration_is_read(tmp_path: Path) -> None:
    folder = tiny_bundle(tmp_path / "own")
    (folder / "configs" / "inference.json").rename(folder / "configs" / "inference.yaml")  # JSON is YAML
    assert load_bundle(folder).config.name == "inference.yaml"


SCRIPT = """
from scripts.values import VALUE


class Shift:
    def __call__(self, data):
        data["image"] = data["image"] + VALUE
        return data
"""


def with_scripts(folder: Path, value: float) -> Path:
    """Writes a bundle with its own transform, in a package that all such bundles name `scripts`."""
    config = inference_config()
    config["imports"].append("$import scripts")
    config["preprocessing"]["transforms"].append({"_target_": "scripts.shift.Shift"})
    tiny_bundle(folder, config=config)
    (folder / "scripts").mkdir()
    (folder / "scripts" / "__init__.py").write_text("")
    (folder / "scripts" / "shift.py").write_text(SCRIPT)
    (folder / "scripts" / "values.py").write_text(f"VALUE = {value}\n")
    return folder


def test_scripts_of_two_bundles_are_not_mixed_and_leave_nothing_behind(tmp_path: Path) -> None:
    before = set(sys.modules), list(sys.path)
    first, second = (load_bundle(with_scripts(tmp_path / str(value), value)) for value in (1.0, 2.0))
    shifted = [model.preprocessing.transforms[-1]({"image": 0.0})["image"] for model in (first, second)]  # type: ignore[attr-defined]
    assert shifted == [1.0, 2.0]
    assert not [name for name in set(sys.modules) - before[0] if name.startswith("scripts")]
    assert sys.path == before[1]
    assert not list(tmp_path.rglob("__pycache__"))


def test_a_changed_script_changes_the_digest(tmp_path: Path) -> None:
    folder = with_scripts(tmp_path / "own", 1.0)
    before = load_bundle(folder).digest
    (folder / "scripts" / "values.py").write_text("VALUE = 5.0\n")
    assert load_bundle(folder).digest != before


def test_a_script_with_the_name_of_a_library_is_refused(tmp_path: Path) -> None:
    folder = tiny_bundle(tmp_path / "own")
    (folder / "torch.py").write_text("")
    with pytest.raises(InputError, match="has a module torch, a name that Python or a package already uses"):
        load_bundle(folder)


@pytest.mark.parametrize("code", ["raise ZeroDivisionError('own code')", "import sys\nsys.exit('own code')"])
def test_an_error_in_the_bundles_code_is_reported_and_not_raised(code: str, tmp_path: Path) -> None:
    folder = with_scripts(tmp_path / "own", 1.0)
    (folder / "scripts" / "shift.py").write_text(code)
    assert "cannot be used" in named(folder).missing()


def test_weights_with_code_are_refused_and_the_code_does_not_run(tmp_path: Path) -> None:
    sign = tmp_path / "the-code-has-run"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.mkdir, (sign,)

    folder = tiny_bundle(tmp_path / "own", weights={"model": Evil()})
    with pytest.raises(WeightsError, match=r"model\.pt: contains code besides weights; the code was not run\."):
        load_bundle(folder)
    assert not sign.exists()


def test_an_unreadable_folder_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    own = named(tiny_bundle(tmp_path / "own"))
    monkeypatch.setattr(Path, "is_dir", refuse)
    assert "Permission denied" in own.missing()


def test_other_organ_names_change_the_provenance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_bundle(tmp_path / "own")
    before = load_bundle(folder).digest
    monkeypatch.setattr("medsam2_atlas.segmenters.organ_labels.organ_named", lambda name: 1 if name == "Liver" else 0)
    assert load_bundle(folder).digest != before


def test_links_are_followed_and_circular_links_do_not_hang(tmp_path: Path) -> None:
    folder = tiny_bundle(tmp_path / "own")
    (folder / "models").rename(tmp_path / "weights")
    (folder / "models").symlink_to(tmp_path / "weights")
    (folder / "configs" / "again").symlink_to(folder)
    assert folder / "models" / "model.pt" in deciding_files(folder)
    assert load_bundle(folder).weights == folder / "models" / "model.pt"
