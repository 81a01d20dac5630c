"""Token files: unsafe files are refused, and people can be added."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medsam2_atlas.access.token_adding import add_person
from medsam2_atlas.access.token_entries import TokenEntry, digest_of, read_tokens
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.cli import app
from token_files import tokens_for, write_tokens

LONG = 32 * "x"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tokens_for(tmp_path / "tokens.yaml", {"kim": "annotator", "lee": "admin"})


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o642, 0o641, 0o666])
def test_a_file_that_everybody_may_use_is_refused(file: Path, mode: int) -> None:
    file.chmod(mode)
    with pytest.raises(InputError, match=rf"mode {mode:04o}.* chmod 640"):
        read_tokens(file)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o440, 0o660])
def test_owner_and_group_may_use_the_file(file: Path, mode: int) -> None:
    file.chmod(mode)
    assert len(read_tokens(file)) == 2


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f"- {{name: kim, role: admin, token: {31 * 'x'}}}", r"entry 1 \(kim\) has a token of less than 32 characters"),
        ("- {name: kim, role: admin, token: put-a-long-random-text-here-1-and-some-more}", "an example"),
        ("- {name: kim, role: admin, sha256: DIGEST-OF-EXAMPLE}", "an example"),
        ("- {name: kim, role: admin, sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08}", "an example"),
        (f"- {{name: kim, role: admin, token: {LONG}}}\n- {{name: kim, role: admin, token: {LONG}y}}", "two entries for kim"),
        (f"- {{name: kim, role: admin, token: {LONG}}}\n- {{name: lee, role: admin, token: {LONG}}}", "same token for kim and"),
        (f"- {{name: kim, role: admin, token: {LONG}, expire: 2020-01-01}}", "'expire', which is unknown"),
        (f"- {{name: kim, role: admin, token: {LONG}, expires: soon}}", "an `expires` that is not a date"),
        (f"- {{name: kim, role: admin, token: {LONG}, expires: }}", "an `expires` that is not a date"),
        (f"- {{name: kim, role: admin, token: {LONG}, expires: 2027-13-01}}", "an invalid date or number"),
        (f"- {{name: kim, role: admin, token: {LONG}, sha256: {64 * '0'}}}", "either token or sha256"),
        (f"- {{name: kim, role: {LONG}, token: admin}}", "the role something"),
        (f'- {{name: "kim\\n", role: admin, token: {LONG}}}', "a name with invalid characters"),
        (f'- {{name: "a\u202eb", role: admin, token: {LONG}}}', "a name with invalid characters"),
        (f"- {{name: {101 * 'k'}, role: admin, token: {LONG}}}", "of more than 100"),
        (f"- {{name: [kim], role: admin, token: {LONG}}}", "entry 1 has no name"),
        ("- {name: kim, role: admin, token: 12345678901234567890123456789012}", "in quotes"),
        (f"- {{name: kim, role: admin, token: *{LONG}}}", "not YAML in line 1"),
        (f"- {{name: kim, role: admin, token={LONG}}}", "something, which is unknown"),
        (f"- {{name: {LONG}, role: admin, token: kim}}", "entry 1 has a token of less than"),
        *(
            (f"- {{name: kim, role: admin, token: {LONG}, expires: {end}}}", "invalid date or number")
            for end in ('!!int ""', "!!bool x")
        ),
        (f"- {{name: kim, role: admin, token: {LONG}, expires: !!timestamp soon}}", "an invalid date or number"),
    ],
)
def test_unsafe_entries_are_refused_without_showing_a_token(tmp_path: Path, text: str, problem: str) -> None:
    text = text.replace("DIGEST-OF-EXAMPLE", hashlib.sha256(b"put-a-long-random-text-here-2").hexdigest())
    file = write_tokens(tmp_path / "tokens.yaml", text)
    with pytest.raises(InputError, match=problem) as refused:
        read_tokens(file)
    assert "xxxx" not in str(refused.value)
    assert "put-a-long" not in str(refused.value)


def test_the_example_is_refused_until_its_tokens_are_replaced(tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "deploy" / "tokens.example.yaml"
    with pytest.raises(InputError, match=r"an example.* Make one with: python3"):
        read_tokens(write_tokens(tmp_path / "tokens.yaml", example.read_text()))


def test_a_person_is_added_without_storing_the_token(file: Path) -> None:
    file.write_text("# Tokens of our department.\n" + file.read_text())
    before = file.read_text()
    token = add_person(file, "Ärztin: 7, {x}", "reviewer", "2027-01-31")
    assert len(token) == 43
    assert token not in file.read_text()
    assert file.read_text().startswith(before)
    added = read_tokens(file)[digest_of(token)]
    assert (added.name, added.role) == ("Ärztin: 7, {x}", "reviewer")
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_a_new_file_is_for_its_owner_only(tmp_path: Path) -> None:
    token = add_person(tmp_path / "tokens.yaml", "kim", "annotator")
    assert read_tokens(tmp_path / "tokens.yaml") == {digest_of(token): TokenEntry("kim", "annotator")}
    assert stat.S_IMODE((tmp_path / "tokens.yaml").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("name", "expires", "problem"),
    [
        ("kim", "", "already contains kim"),
        ("a\nb", "", "invalid characters"),
        ("", "", "is not a name"),
        ("max", "soon", "'soon': is not a date"),
        ("max", "2020-01-31", "2020-01-31: has passed"),
    ],
)
def test_a_person_who_cannot_be_added_changes_nothing(file: Path, name: str, expires: str, problem: str) -> None:
    before = file.read_bytes()
    with pytest.raises(InputError, match=problem):
        add_person(file, name, "annotator", expires)
    assert file.read_bytes() == before
    assert [one.name for one in file.parent.iterdir()] == [file.name]


def test_an_error_names_the_token_file_and_not_the_temporary_one(file: Path) -> None:
    with pytest.raises(InputError) as refused:
        add_person(file, "a\nb", "annotator")
    assert refused.value.subject == str(file)


def test_a_file_with_another_layout_is_not_damaged(tmp_path: Path) -> None:
    file = write_tokens(tmp_path / "tokens.yaml", f"[{{name: kim, role: admin, token: {LONG}}}]")
    before = file.read_bytes()
    with pytest.raises(InputError):
        add_person(file, "lee", "admin")
    assert file.read_bytes() == before


def test_the_command_prints_only_the_token_and_lists_people(tmp_path: Path) -> None:
    file = str(tmp_path / "tokens.yaml")
    added = CliRunner().invoke(app, ["tokens", "add", file, "kim", "--role", "admin", "--expires", "2999-01-31"])
    assert added.exit_code == 0
    assert digest_of(added.stdout.strip()) in read_tokens(Path(file))
    Path(file).write_text(Path(file).read_text().replace("2999", "2020"))
    listed = CliRunner().invoke(app, ["tokens", "check", file]).stdout
    assert "kim" in listed
    assert "(expired)" in listed
    assert CliRunner().invoke(app, ["tokens", "add", file, "lee", "--role", "king"]).exit_code != 0
