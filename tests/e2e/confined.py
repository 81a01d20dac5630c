"""Runs the services of compose.yaml under the constraints of their containers, with Linux namespaces instead of an engine.

The new root contains this machine's system folders and the files that the Dockerfile copies, all read-only, the service's tmpfs
and /dev/shm, and /data, the only other writable folder. The process runs as the image's user, who has no home and no entry in
/etc/passwd. It has only the image's environment, and only the capabilities that the service adds.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from e2e.dockerfile import ROOT, Dockerfile
from waiting import until

_SYSTEM = ("/bin", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/sbin", "/usr")
_DEVICES = ("full", "null", "random", "urandom", "zero")
_NAMESPACES = ("--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child")
_TMPFS = "noexec,nosuid,nodev"  # the options of container engines


@functools.cache
def why_not() -> str:
    """Returns why containers cannot be imitated here; empty if they can."""
    if os.geteuid() != 0:
        return "only root may mount"
    if not shutil.which("unshare") or not shutil.which("setpriv"):
        return "unshare or setpriv is not installed"
    probe = "mount -t tmpfs tmpfs /mnt && mount -t proc proc /proc"
    done = subprocess.run(["unshare", *_NAMESPACES, "--net", "sh", "-c", probe], capture_output=True, text=True)
    return done.stderr.strip() if done.returncode else ""


def service(name: str) -> dict[str, Any]:
    """Returns a service of compose.yaml, with the defaults of its variables."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (ROOT / "compose.yaml").read_text())
    found: dict[str, Any] = yaml.safe_load(text)["services"][name]
    return found


@dataclass(frozen=True)
class Container:
    """The container of a service.

    Attributes:
        name: name of the service in compose.yaml.
        data: folder of this machine that becomes /data.
        image: the Dockerfile of the image.
        environment: additional variables.
        files: read-only files and folders of this machine, by their paths in the container.
        own_net: whether it has a separate network.
    """

    name: str
    data: Path
    image: Dockerfile
    environment: dict[str, str] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    own_net: bool = False

    @property
    def log(self) -> Path:
        """The file with the container's output."""
        return self.data.with_suffix(".log")

    @property
    def user(self) -> tuple[int, int]:
        """The ids of the container's user and group."""
        user, _, group = str(service(self.name).get("user", self.image.user)).partition(":")
        return int(user), int(group)

    @contextmanager
    def running(self, *arguments: str, ready: Callable[[int], bool]) -> Iterator[int]:
        """Starts the entry point and yields the id of its process. Sends SIGTERM at the end of the block.

        Args:
            arguments: arguments of the entry point.
            ready: returns whether the service is ready, given the process id.
        """
        self.data.mkdir(exist_ok=True)
        os.chown(self.data, *self.user)
        script = self.data.with_suffix(".sh")
        script.write_text("\n".join(["set -e", *self._mounts(), self._run(arguments)]))
        namespaces = [*_NAMESPACES, "--net"] if self.own_net else _NAMESPACES
        with self.log.open("a") as log:
            process = subprocess.Popen(["unshare", *namespaces, "sh", str(script)], stdout=log, stderr=log)
        try:

            def up() -> int:
                assert process.poll() is None, self.log.read_text()[-4000:]
                inside = psutil.Process(process.pid).children()
                return inside[0].pid if inside and ready(inside[0].pid) else 0

            number = until(up, 180, f"{self.name} does not start")
            yield number
            os.kill(number, signal.SIGTERM)
            process.wait(25)
        finally:
            process.kill()  # ends its child, the first process of the namespace, and with it all others
            process.wait()

    def _mounts(self) -> list[str]:
        """Returns commands that build the new root at /mnt in a separate mount namespace."""
        settings = service(self.name)
        lines = ["mount -t tmpfs -o mode=755 tmpfs /mnt", "cd /mnt", "mkdir dev proc data home"]
        for folder in map(Path, _SYSTEM):
            if folder.is_symlink():
                lines.append(f"cp -P {folder} /mnt{folder}")
            elif folder.is_dir():
                lines += _bound(folder, str(folder))
        shown = {target: ROOT / source for source, target in self.image.copies if not target.startswith("/usr")}
        if self.image.folder != "/":
            shown[f"{self.image.folder}/.venv"] = Path(sys.prefix)
            shown |= {str(path): path for path in map(Path, (sys.prefix, sys.base_prefix)) if not str(path).startswith("/usr")}
        sizes = [f"/dev/shm:mode=1777,size={settings.get('shm_size', '64m')}", *settings["tmpfs"]]
        for place, _, options in (entry.partition(":") for entry in sizes):  # first, because this checkout may be in /tmp
            lines += [f"mkdir -p .{place}", f"mount -t tmpfs -o {_TMPFS},{options} tmpfs .{place}"]
        for target, source in {**shown, **self.files}.items():
            lines += _bound(source, target)
        for name in _DEVICES:
            lines += [f"touch dev/{name}", f"mount --bind /dev/{name} dev/{name}"]
        lines += ["mount -t proc proc proc", shlex.join(["mount", "--bind", str(self.data), "data"])]
        if settings["read_only"]:
            lines.append("mount -o remount,ro /mnt")
        return [*lines, "ip link set lo up 2>/dev/null || true"]

    def _run(self, arguments: tuple[str, ...]) -> str:
        settings, (user, group) = service(self.name), self.user
        assert settings["cap_drop"] == ["ALL"]
        capabilities = ",".join(["-all", *(f"+{name.lower()}" for name in settings.get("cap_add", ()))])
        privileges = [f"--reuid={user}", f"--regid={group}", "--clear-groups", "--inh-caps=-all", "--ambient-caps=-all"]
        privileges += ["--no-new-privs", f"--bounding-set={capabilities}"]
        variables = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin", "OMP_NUM_THREADS": "1"}
        if self.image.folder != "/":
            variables["PYTHONPATH"] = f"{self.image.folder}/lib"  # the environment's packages refer to another checkout
        variables |= self.image.environment | self.environment
        named = [f"{name}={value}" for name, value in variables.items()]
        command = ["chroot", "/mnt", "setpriv", *privileges, "env", "-i", "-C", self.image.folder, *named]
        return "exec " + shlex.join([*command, *self.image.entrypoint, *arguments])


def _bound(source: Path, target: str) -> list[str]:
    """Returns commands that mount a file or folder read-only at a path of the new root."""
    place = f"/mnt{target}"
    made = ["mkdir", "-p", place] if source.is_dir() else ["install", "-D", "/dev/null", place]
    mounts = [["mount", "--bind", str(source), place], ["mount", "-o", "remount,bind,ro", place]]
    return [shlex.join(command) for command in (made, *mounts)]
