"""Commands check what they are given before their long work, and name what is wrong in plain words."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from command_lines import labelled_studies
from medsam2_atlas.atlas import resolve_atlas
from medsam2_atlas.base.errors import MedSAM2AtlasError
from medsam2_atlas.cli import app
from medsam2_atlas.dicom.web import DicomWeb
from medsam2_atlas.imaging import hounsfield
from medsam2_atlas.segmenters.places import find_atlas

CLI = CliRunner()


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes commands run in a folder with a file `file` and an empty folder `folder`."""
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("folder").mkdir()
    return tmp_path


def refused(*arguments: str) -> str:
    """Returns the error of a command that has to fail with an error of the project."""
    done = CLI.invoke(app, arguments)
    assert isinstance(done.exception, MedSAM2AtlasError), (done.output, done.exception)
    return str(done.exception)


@pytest.mark.parametrize(
    "arguments",
    [
        ("segment", "none", "-o", "l.nii.gz"),
        ("segment", "file", "-o", "l.nii.gz", "--segmenter", "reference-3", "--truth", "none"),
        ("propagate", "file", "--prompts", "none", "--logits", "l.npz"),
        ("propagate", "file", "--mask", "none", "--logits", "l.npz"),
        ("atlas", "scores", "none", "--atlas", "folder"),
        ("dicom", "seg", "none", "folder", "out.dcm"),
        ("dicom", "rtstruct", "file", "none", "out.dcm"),
        ("train", "unet", "folder", "run", "--start", "none"),
    ],
    ids=" ".join,
)
def test_a_missing_input_is_named_at_once(arguments: tuple[str, ...]) -> None:
    assert refused(*arguments) == "none: does not exist. Check the path."


@pytest.mark.parametrize("arguments", [("segment", "file", "-o", "l.nii.gz"), ("atlas", "scores", "file")], ids=" ".join)
@pytest.mark.parametrize("atlas", ["none", "folder", "file"])
def test_a_missing_atlas_is_named_before_the_ct_is_read(
    arguments: tuple[str, ...], atlas: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hounsfield, "read_ct", lambda *_: pytest.fail("the CT was read first"))
    assert refused(*arguments, "--atlas", atlas).startswith(f"{atlas}: is not an atlas")


def test_a_file_is_not_an_atlas() -> None:
    assert resolve_atlas(Path("file")) == Path("file")
    with pytest.raises(MedSAM2AtlasError, match="file: is not an atlas"):
        find_atlas(Path("file"))


def test_an_evaluation_without_its_atlas_reads_no_case(monkeypatch: pytest.MonkeyPatch) -> None:
    from medsam2_atlas.experiment import conduct

    monkeypatch.setattr(conduct, "find_cases", lambda *_: pytest.fail("the cases were read first"))
    Path("labels").mkdir()
    given = ("--images", "folder", "--labels", "labels", "-o", "out", "--segmenters", "A", "--atlas", "none")
    assert refused("evaluate", *given).startswith("none: is not an atlas")


@pytest.mark.parametrize(
    "arguments",
    [
        ("segment", "file", "-o", "l.nii.gz"),
        ("batch", "folder", "out"),
        ("evaluate", "--images", "folder", "--labels", "folder", "-o", "out"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("source", ["ct", "medsam2", "A"])
def test_an_unknown_source_of_prompts_is_refused_with_the_known_ones(arguments: tuple[str, ...], source: str) -> None:
    expected = f"--prompts {source}: is not a source of prompts. Choose atlas, unet, both or the name of a trained segmenter."
    assert refused(*arguments, "--prompts", source) == expected


@pytest.mark.parametrize(("config", "words"), [("officail", "Choose demo or sam2"), ("none.yaml", "No such file")])
def test_an_unknown_network_configuration_is_refused_with_the_known_ones(config: str, words: str) -> None:
    message = refused("weights", "shapes", "--config", config)
    assert message.startswith(f"{config}: ")
    assert words in message


def test_a_yaml_file_without_a_network_is_no_network_configuration() -> None:
    for text in ("- a list", "a: 1", "a: [", ""):
        Path("net.yaml").write_text(text)
        assert refused("weights", "shapes", "--config", "net.yaml").startswith("net.yaml: ")


@pytest.mark.parametrize(
    ("content", "words"), [(b"- a: [", "while parsing"), (b"\xff", "it is not UTF-8 text"), (None, "No such file")]
)
def test_a_configuration_that_cannot_be_read_is_explained_in_a_sentence(content: bytes | None, words: str) -> None:
    if content is not None:
        Path("unet.yaml").write_bytes(content)
    message = refused("train", "unet", "folder", "run", "--config", "unet.yaml")
    assert message.startswith("unet.yaml: is not a valid U-Net configuration: ")
    assert words in message
    assert "[Errno" not in message
    assert ". Compare it with configs/unet/." in message


@pytest.mark.parametrize("content", [b"a text", b"", b"PK\x03\x04 cut off", b"\x1f\x8b\x08 gzip"])
def test_a_file_of_another_program_is_no_checkpoint_and_no_advice_of_pytorch_is_printed(content: bytes) -> None:
    Path("w.pt").write_bytes(content)
    message = refused("weights", "check", "w.pt")
    assert message.startswith("w.pt: is not a PyTorch checkpoint (it is damaged, or PyTorch did not write it).")


@pytest.mark.parametrize("arguments", [("phantoms", "out", "--seed", "-1"), ("train", "demo", "d.pt", "--seed", "-1")])
def test_a_negative_seed_is_wrong_usage(arguments: tuple[str, ...]) -> None:
    done = CLI.invoke(app, arguments)
    assert (done.exit_code, "--seed" in done.output) == (2, True)


def test_an_unknown_setting_of_the_server_is_refused_with_the_known_ones() -> None:
    message = refused("serve", "folder", "--conf", "laerning=false")
    assert message.startswith("--conf laerning: is not a setting of the app. Choose from: atlas, ")
    assert "learning" in message


def test_an_unusable_token_file_is_named_before_the_server_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.execv", lambda *_: pytest.fail("the server was started"))
    assert refused("serve", "folder", "--port", "1", "--tokens", "none.yaml").startswith("none.yaml: cannot be read as tokens")


def test_the_time_of_a_search_in_the_audit_log_is_checked(place: Path) -> None:
    labelled_studies(place / "studies")
    for since in ("yesterday", "26.11.2026", "2026-11-26 08:30"):
        assert refused("studies", "audit", "studies", "--since", since).startswith(f"{since!r}: is not the beginning")
    for since in ("2026", "2026-11-26", "2026-11-26T08:30", "2026-11-26T08:30:12.123Z"):
        assert CLI.invoke(app, ["studies", "audit", "studies", "--since", since]).exit_code == 0


def test_an_erasure_that_nobody_confirms_says_that_nothing_was_erased(place: Path) -> None:
    labelled_studies(place / "studies")
    study = next(file for file in Path("studies").iterdir() if file.is_file()).name.partition(".")[0]
    message = refused("studies", "erase", "studies", study, "--reason", "withdrawn")  # standard input is empty
    assert message.startswith("the study: was not erased, because nobody confirmed it.")


def test_a_pacs_that_does_not_answer_is_named_without_the_query() -> None:
    with pytest.raises(MedSAM2AtlasError) as failed:
        DicomWeb("http://127.0.0.1:9/dicom-web").list_series({"PatientName": "KIM"})
    message = str(failed.value)
    assert message.startswith("PACS: cannot be reached (127.0.0.1:9: ")
    assert "KIM" not in message
    assert "HTTPConnection" not in message


@pytest.mark.parametrize("option", ["--version", "-h"])
def test_usual_options_work(option: str) -> None:
    done = CLI.invoke(app, [option])
    assert done.exit_code == 0
    assert done.output == CLI.invoke(app, ["version" if option == "--version" else "--help"]).output
