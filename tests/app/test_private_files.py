"""Other users of the machine cannot read files that the server writes, whatever the umask at its start."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from app.running import server
from medsam2_atlas.atlas import ReferenceFiles


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def made_below(*folders: Path, but: set[Path]) -> dict[Path, int]:
    """Returns the modes of all files and folders below some folders, except links and `but`."""
    found = {path: path.lstat() for folder in folders for path in folder.rglob("*") if path not in but}
    return {path: stat.S_IMODE(state.st_mode) for path, state in found.items() if not stat.S_ISLNK(state.st_mode)}


@pytest.mark.parametrize("group", [False, True])
def test_other_users_cannot_read_the_servers_files(group: bool, short_files: ReferenceFiles, tmp_path: Path) -> None:
    studies, temporary = tmp_path / "studies", tmp_path / "temporary"
    for folder in (studies / ".medsam2_atlas" / "versions", temporary):  # modes of an earlier version
        folder.mkdir(parents=True)
    shutil.copy(short_files.image, studies / "first.nii.gz")
    (studies / ".medsam2_atlas" / "versions" / "old.json").write_text("{}")
    own = {studies / "first.nii.gz"}
    assert short_files.label is not None
    conf = {"learning": "false", "server_files_for_group": str(group).lower()}
    with server(studies, tmp_path / "server", conf, {"TMPDIR": str(temporary)}) as client:
        url = client.get_server_url().rstrip("/")
        for tag in ("final", "mine"):
            with short_files.label.open("rb") as stream:
                answer = requests.put(
                    f"{url}/datastore/label", params={"image": "first", "tag": tag}, files={"label": ("a.nii.gz", stream)}
                )
            assert answer.status_code == 200, answer.text
        with short_files.image.open("rb") as stream:
            assert requests.put(f"{url}/datastore/image?image=second", files={"file": ("b.nii.gz", stream)}).ok
        with short_files.image.open("rb") as stream:
            assert requests.put(f"{url}/session/", files={"files": ("c.nii.gz", stream)}).ok
        answer = requests.post(f"{url}/infer/unet_3d", params={"image": "first", "output": "json"})
        assert answer.status_code == 200, answer.text
        assert requests.get(f"{url}/datastore/dataset").ok
        assert requests.get(f"{url}/worklist/picture?study=first").ok
        assert requests.delete(f"{url}/datastore/image?id=second").ok
        lines = requests.get(f"{url}/audit").text
        modes = made_below(studies, but=own)
        private = made_below(temporary, tmp_path / "server" / "state", tmp_path / "server" / "sessions", but=set())
    files, folders = ({0o660}, {0o2770, 0o770}) if group else ({0o600}, {0o700})
    wrong = {str(path): oct(mode) for path, mode in modes.items() if mode not in (files | folders)}
    assert not wrong
    assert not {str(path): oct(mode) for path, mode in private.items() if mode & 0o007 or (mode & 0o070 and not group)}
    names = {path.name for path in modes}
    assert {"audit.jsonl", "old.json", "names.key", "studies.sqlite"} <= names
    assert "meta.info" in {path.name for path in private}
    assert stat.S_IMODE((studies / "first.nii.gz").stat().st_mode) == 0o644  # the image belongs to the operator
    for action in ("server.start", "label.sign_off", "label.save", "image.add", "session.add", "model.run", "export.dataset"):
        assert f'"action":"{action}"' in lines
    if group and os.getuid() == 0:
        _works_for_a_second_user(studies)


def _works_for_a_second_user(studies: Path) -> None:
    """Restores a label map as another user of the group; the server's user can then read and replace it."""
    group = studies.stat().st_gid
    for folder in (studies, *studies.parents):
        if str(folder) == "/tmp":
            break
        folder.chmod(folder.stat().st_mode | 0o011 | (0o070 if folder == studies else 0))
    code = (
        "import os, sys; from pathlib import Path\n"
        "from medsam2_atlas.cli.folders import study_folder; from medsam2_atlas.audit.log import AuditLog, record_command\n"
        "study_folder(Path(sys.argv[1])).store.labels()\n"  # imports now: the other user may not read Python
        "os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(65534); os.umask(0o022)\n"
        "folder = study_folder(Path(sys.argv[1]))\n"
        "made = folder.store.restore_label('first', 'final', 1, author='second')\n"
        "assert record_command(folder.work, 'label.restore', study='first', version=made.label.version.number) is None\n"
        "assert not AuditLog.of(folder.work).problem, AuditLog.of(folder.work).problem\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(studies), str(group)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not {path for path, mode in made_below(studies / ".medsam2_atlas", but=set()).items() if mode & 0o007}
    assert any(path.stat().st_uid == 65534 for path in studies.rglob("*"))
