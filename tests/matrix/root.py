"""A root of another release of Debian, as fresh as an installation: its commands run as root of namespaces."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mpnet.errors import MpnetError
from mpnet.guest import apt

_SOURCE = Path(__file__).parents[2]
# What README.md and `make` have a newcomer install; the compiler is for Pythons that posix_ipc has no wheel for.
_PACKAGES = (
    "python3-venv",
    "make",
    "git",
    "ca-certificates",
    "iproute2",
    "mount",
    "gcc",
    "libc6-dev",
    "python3-dev",
)
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_ENTER = """
mount --bind "$0" "$0"
cd "$0"
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs tmpfs dev/shm
mount -t tmpfs tmpfs tmp
# Not chroot: what enters these namespaces from within, as nsenter does, is to come to this root.
pivot_root . mnt
# Not by umount, which a release may lack.
python3 -c 'import ctypes; ctypes.CDLL(None).umount2(b"/mnt", 2)'
exec "$@"
"""


class Root:
    """A release's root with a clone of the checkout in it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def run(self, command: Sequence[str], log: Path) -> int:
        """Run a command in the clone, with the machine's network; its status. What it says goes to a log."""
        passed = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        environment = passed | {"HOME": "/root", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
        with log.open("wb") as output:
            return subprocess.call(
                ["unshare", "--mount", "--pid", "--ipc", "--fork", "--kill-child", "--propagation", "private",
                 "bash", "-eu", "-c", _ENTER, str(self._folder), "env", "-i",
                 *(f"{name}={value}" for name, value in environment.items()),
                 "sh", "-c", 'cd /root/mpnet && exec "$@"', "sh", *command],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip


@contextmanager
def root(release: str) -> Iterator[Root]:
    """Make a root of a release, from this machine's mirror; it is removed again.

    Raises:
        MpnetError: mmdebstrap is missing or failed, or this is not root.
    """
    if os.geteuid() != 0 or shutil.which("mmdebstrap") is None:
        raise MpnetError("a root of another release takes root and mmdebstrap", "apt-get install mmdebstrap")
    # Not in /tmp, which may be small or forbid programs.
    with tempfile.TemporaryDirectory(prefix=f"mpnet-{release}-", dir="/var/tmp") as folder:
        place = Path(folder) / "root"
        apt.checked(
            ["mmdebstrap", "--variant=apt", f"--include={','.join(_PACKAGES)}",
             '--aptopt=Acquire::Check-Valid-Until "false"', release, str(place), apt.mirror()],
            "see what it says",
        )  # fmt: skip
        shutil.copy("/etc/resolv.conf", place / "etc")
        if _CERTIFICATES.exists():  # of a network with authorities of its own
            shutil.copy(_CERTIFICATES, place / _CERTIFICATES.relative_to("/"))
        subprocess.run(["git", "clone", "--quiet", _SOURCE, place / "root/mpnet"], check=True)
        yield Root(place)
