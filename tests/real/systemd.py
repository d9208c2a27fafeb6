"""systemd as the first process of namespaces of its own, with our units and no others."""

import contextlib
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from mpnet.guest import debian
from tests.real.running import wait_until

PARTS = ("systemd",)

_ROOT = Path(__file__).parents[2]
_SCRIPT = Path(__file__).with_name("systemd.sh")
_NAMESPACES = ("--mount", "--pid", "--net", "--ipc", "--uts", "--cgroup", "--wdns=/")
_START_SECONDS = 240
_RUN_SECONDS = 150


def systemd_can_run() -> bool:
    """Whether this process may make namespaces, and has a cgroup in which it may make others."""
    own = _own_cgroup()
    return os.geteuid() == 0 and own is not None and os.access(own, os.W_OK)


class Systemd:
    """A booted systemd without mpnet's units, its root a layer over this machine's; to be entered.

    Services run interpreted: they do not see the cache of compiled code. Their standard error is ``/run/log``.

    Args:
        folder: empty, for the layer and a log; nothing is left in it but that.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = contextlib.ExitStack()
        self._pid = 0

    def __enter__(self) -> Self:
        debian.program("systemd-analyze")  # its package has all of it
        layer = self._folder / "layer"
        layer.mkdir()
        with contextlib.ExitStack() as stack:
            cgroup = stack.enter_context(_cgroup())
            log = stack.enter_context((self._folder / "systemd.log").open("wb"))
            places = (layer, cgroup, _ROOT, sys.base_prefix, sysconfig.get_path("purelib"))
            process = subprocess.Popen(
                ["bash", _SCRIPT, *places], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
            stack.callback(process.wait)
            stack.callback(process.kill)  # and with it all processes of the namespace
            wait_until(lambda: self._booted(process), "systemd is booted", _START_SECONDS)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _booted(self, process: subprocess.Popen[bytes]) -> bool:
        assert process.poll() is None, f"systemd could not be booted: {self.log}"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        if not children or Path(f"/proc/{children[0]}/comm").read_text() != "systemd\n":
            return False
        self._pid = int(children[0])
        return self.run("systemctl", "is-system-running").stdout == "running\n"

    @property
    def log(self) -> str:
        """What went wrong before systemd ran."""
        return (self._folder / "systemd.log").read_text()

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command beside the services."""
        enter = ("nsenter", f"--target={self._pid}", *_NAMESPACES)
        return subprocess.run([*enter, *words], capture_output=True, text=True, timeout=_RUN_SECONDS, check=False)

    def systemctl(self, *words: str) -> str:
        """Run it, and expect it to succeed; its output."""
        done = self.run("systemctl", *words)
        assert done.returncode == 0, f"{words}: {done.stderr}{self.log}{self.path('/run/log').read_text()}"
        return done.stdout.strip()

    def follow(self, heading: str, block: int = 0) -> None:
        """Do what a block of commands below a heading of docs/operations.md says, word by word, in a checkout."""
        section = (
            (_ROOT / "docs/operations.md").read_text().partition(f"\n### {heading}\n")[2].partition("\n### ")[0]
        )
        commands = section.split("```")[2 * block + 1]
        done = self.run("sh", "-euxc", f"cd /opt/source\n{commands}")
        assert done.returncode == 0, done.stderr

    def path(self, path: str) -> Path:
        """Where this process finds a path of theirs."""
        return Path(f"/proc/{self._pid}/root{path}")


@contextlib.contextmanager
def _cgroup() -> Iterator[Path]:
    """A cgroup below this process's own while the block lasts; what is in it must have ended by then."""
    own = _own_cgroup()
    assert own is not None, "there is a hierarchy of cgroup v2"
    made = Path(tempfile.mkdtemp(prefix="mpnet-test-", dir=own))
    try:
        yield made
    finally:
        for folder, _, _ in os.walk(made, topdown=False):
            # The kernel takes the last of its processes out a moment after they have ended.
            wait_until(lambda folder=folder: _removed(Path(folder)), f"{folder} is empty")


def _own_cgroup() -> Path | None:
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    tops = [Path(place) for _, place, kind, *_ in mounts if kind == "cgroup2"]
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    own = [line.removeprefix("0::/") for line in lines if line.startswith("0::")]
    return tops[0] / own[0] if tops and own else None


def _removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:
        return False
    return True
