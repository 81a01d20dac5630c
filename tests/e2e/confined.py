"""Runs the app under a container's constraints without an engine: Linux namespaces, as an engine makes them.

A new root holds this machine's system folders and what the Dockerfile copies, all read-only; a small /tmp and /dev/shm; and
/data, the only other place that can be written. The process has the image's user, who has no home and no entry in /etc/passwd,
its environment and nothing else of this process's, no capabilities, and cannot gain any.
"""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import requests

from e2e.dockerfile import ROOT, Dockerfile
from e2e.orthanc import free_port

_SYSTEM = ("/bin", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/sbin", "/usr")
_DEVICES = ("full", "null", "random", "urandom", "zero")
_NAMESPACES = ("--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child")


@functools.cache
def why_not() -> str:
    """Returns why containers cannot be imitated here; empty if they can."""
    if os.geteuid() != 0:
        return "only root may mount"
    if not shutil.which("unshare") or not shutil.which("setpriv"):
        return "unshare or setpriv is not installed"
    probe = "mount -t tmpfs tmpfs /mnt && mount -t proc proc /proc"
    done = subprocess.run(["unshare", *_NAMESPACES, "sh", "-c", probe], capture_output=True, text=True)
    return done.stderr.strip() if done.returncode else ""


@dataclass(frozen=True)
class Container:
    """What a container of the app is run with. data: folder of this machine that becomes /data. files: files and folders of
    this machine by their paths in the container, read-only. log: where its output goes."""

    data: Path
    log: Path
    environment: dict[str, str] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)

    @property
    def image(self) -> Dockerfile:
        """Returns the app's Dockerfile."""
        return Dockerfile.of(ROOT / "deploy" / "app.Dockerfile")

    @property
    def user(self) -> tuple[int, int]:
        """Returns the ids of the user and the group that the image names."""
        user, _, group = self.image.user.partition(":")
        return int(user), int(group)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Starts the image's entry point with arguments."""
        self.data.mkdir(exist_ok=True)
        os.chown(self.data, *self.user)
        script = self.log.with_suffix(".sh")
        script.write_text("\n".join(["set -e", *self._mounts(), self._run(arguments)]))
        with self.log.open("a") as log:
            return subprocess.Popen(["unshare", *_NAMESPACES, "sh", str(script)], stdout=log, stderr=log)

    @contextmanager
    def serving(self, *arguments: str) -> Iterator[str]:
        """Yields the address of the image's server, started with arguments, until the block ends; then it gets SIGTERM."""
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        process = self.start("serve", *arguments, f"--port={port}")
        try:
            deadline = time.monotonic() + 180
            while True:
                try:
                    requests.get(f"{url}/healthz", timeout=2).raise_for_status()
                    break
                except requests.RequestException:
                    assert process.poll() is None and time.monotonic() < deadline, self.log.read_text()[-4000:]
                    time.sleep(0.3)
            yield url
            inside = psutil.Process(process.pid).children()[0]
            inside.send_signal(signal.SIGTERM)
            assert process.wait(25) in (0, -signal.SIGTERM, 128 + signal.SIGTERM), self.log.read_text()[-4000:]
        finally:
            process.kill()  # its child, the first process of the namespace, goes with it, and all others with that one
            process.wait()

    def _mounts(self) -> list[str]:
        """Returns commands that build the new root at /mnt, in a mount namespace of their own."""
        image = self.image
        lines = ["mount -t tmpfs -o mode=755 tmpfs /mnt", "cd /mnt", "mkdir dev proc tmp data home"]
        for folder in _SYSTEM:
            path = Path(folder)
            if path.is_symlink():
                lines.append(shlex.join(["cp", "-P", folder, f"/mnt{folder}"]))
            elif path.is_dir():
                lines += _bound(path, folder)
        copied = {target: ROOT / source for source, target in image.copies}
        places = {str(path): path for path in (Path(sys.prefix), Path(sys.base_prefix)) if not str(path).startswith("/usr")}
        environment = {f"{image.folder}/.venv": Path(sys.prefix)}
        for target, source in {**copied, **places, **environment, **self.files}.items():
            lines += _bound(source, target)
        for name in _DEVICES:
            lines += [f"touch dev/{name}", f"mount --bind /dev/{name} dev/{name}"]
        lines += ["mkdir dev/shm", "mount -t tmpfs -o size=64m,mode=1777,noexec,nosuid,nodev tmpfs dev/shm"]
        lines += ["mount -t tmpfs -o size=512m,mode=1777,noexec,nosuid,nodev tmpfs tmp", "mount -t proc proc proc"]
        lines += [shlex.join(["mount", "--bind", str(self.data), "/mnt/data"]), "mount -o remount,ro /mnt"]
        return lines

    def _run(self, arguments: Sequence[str]) -> str:
        image = self.image
        user, group = self.user
        privileges = [f"--reuid={user}", f"--regid={group}", "--clear-groups", "--no-new-privs"]
        privileges += ["--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"]
        # The venv's own files name another folder; the image's are made where they lie.
        variables = {"PATH": "/usr/local/bin:/usr/bin:/bin", "PYTHONPATH": f"{image.folder}/lib", "OMP_NUM_THREADS": "1"}
        variables |= image.environment | self.environment
        named = [f"{name}={value}" for name, value in variables.items()]
        command = ["chroot", "/mnt", "setpriv", *privileges, "env", "-i", "-C", image.folder, *named]
        return "exec " + shlex.join([*command, *image.entrypoint, *arguments])


def _bound(source: Path, target: str) -> list[str]:
    """Returns commands that show a file or folder at a path of the new root, read-only."""
    place = f"/mnt{target}"
    made = ["mkdir", "-p", place] if source.is_dir() else ["install", "-D", "/dev/null", place]
    mounts = [["mount", "--bind", str(source), place], ["mount", "-o", "remount,bind,ro", place]]
    return [shlex.join(command) for command in (made, *mounts)]
