"""Debian's own parts for throw-away guests: QEMU, a kernel with its modules, traffic tools.

Programs are looked for on the machine. The kernel is never installed, as that would run the machine's
initramfs and boot-loader hooks: its package is downloaded and unpacked into a cache of the user's own, which
needs no root. The cache is shared by concurrent runs and trusted only while it is whole.
"""

import fcntl
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mpnet.errors import MpnetError

KERNEL_PACKAGE = "linux-image-cloud-amd64"

PROGRAM_PACKAGES = {
    "busybox": "busybox-static",
    "chromium": "chromium",
    "dpdk-testpmd": "dpdk-dev",
    "ethtool": "ethtool",
    "iperf3": "iperf3",
    "linux.uml": "user-mode-linux",
    "perl": "perl-base",
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "qemu-system-x86_64": "qemu-system-x86",
    "setpriv": "util-linux",
    "systemd-analyze": "systemd",
    "systemd-socket-activate": "systemd",
    "tcpdump": "tcpdump",
    "tmux": "tmux",
    "tshark": "tshark",
}
"""Which Debian package brings a program."""

LINUX_GUEST_PROGRAMS = ("qemu-system-x86_64", "busybox", "iperf3", "ethtool", "perl", "setpriv")
"""What a throw-away Linux guest is made of, its kernel apart."""

UNFINISHED = ".new-"
"""What names of folders in the cache begin with while they are written."""

_MANIFEST = "whole.json"
# A mirror that hangs must not hang the tests; a kernel is some 30 MB.
_APT_SECONDS = 600


@dataclass(frozen=True)
class Kernel:
    """An unpacked kernel package.

    Attributes:
        release: what `uname -r` says in the guest.
        image: the bzImage.
        modules: the folder with modules.dep.
    """

    release: str
    image: Path
    modules: Path


def program(name: str) -> Path:
    """Find a program of PROGRAM_PACKAGES on this machine, in the system folders too.

    Raises:
        MpnetError: it is missing; the remedy names its package.
    """
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/bin:/bin")
    if found is None:
        package = PROGRAM_PACKAGES[name]
        raise MpnetError(f"the program {name} is not on this machine", f"apt-get install {package}")
    return Path(found)


def missing_packages(programs: Iterable[str] = LINUX_GUEST_PROGRAMS) -> list[str]:
    """Name the packages whose programs are not on this machine."""
    missing = []
    for name in programs:
        try:
            program(name)
        except MpnetError:
            missing.append(PROGRAM_PACKAGES[name])
    return missing


def install(packages: Sequence[str]) -> None:
    """Install Debian packages, without their recommendations, as root or through sudo.

    Args:
        packages: names; those already installed are left as they are.

    Raises:
        MpnetError: no apt-get, no right to use it, or apt-get failed; with the command to run by hand.
    """
    absent = [name for name in packages if not _is_installed(name)]
    if not absent:
        return
    command = ["apt-get", "install", "--no-install-recommends", "-y", *absent]
    remedy = "run as root: apt-get update && " + " ".join(command)
    prefix = _root_prefix(remedy)
    # Lists may be absent (a fresh container) or older than the mirror; either way one update mends it.
    if _run([*prefix, *command]).returncode != 0:
        _checked([*prefix, "apt-get", "update"], remedy)
        _checked([*prefix, *command], remedy)


def cache_directory() -> Path:
    """Make, where needed, and name the user's cache folder of mpnet."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The base directory specification: a relative path is to be ignored.
    root = Path(base) if base.startswith("/") else Path.home() / ".cache"
    directory = root / "mpnet"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


@contextmanager
def cache_lock() -> Iterator[Path]:
    """Hold the cache for one writer at a time, also between processes; gives its folder."""
    directory = cache_directory()
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for unfinished in directory.glob(f"{UNFINISHED}*"):  # of a writer that was killed
            shutil.rmtree(unfinished)
        yield directory


def kernel() -> Kernel:
    """Give a Debian cloud kernel: the newest whole one of the cache, else one downloaded now.

    Raises:
        MpnetError: none is cached and none could be downloaded; names the package and the remedy.
    """
    with cache_lock() as cache:
        kernels = cache / "kernels"
        kernels.mkdir(exist_ok=True)
        for tree in sorted(kernels.glob("linux-image-*"), key=_version_key, reverse=True):
            if _is_whole(tree):
                return _describe(tree)
            shutil.rmtree(tree)
        return _describe(_download_kernel(kernels))


def has_kernel() -> bool:
    """Tell whether a kernel is cached, so that ``kernel`` needs no network."""
    return any(_is_whole(tree) for tree in cache_directory().glob("kernels/linux-image-*"))


def _download_kernel(kernels: Path) -> Path:
    """Unpack the kernel package into `kernels` by one rename of a whole tree."""
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=kernels.parent) as temporary:
        staging = Path(temporary)
        package, archive = _fetch(staging)
        tree = staging / "tree"
        remedy = f"free disk space under {kernels}, then try again"
        _checked(["dpkg-deb", "-x", str(archive), str(tree)], remedy)
        if not (tree / "lib").exists():  # merged-/usr packages put everything under usr/lib
            (tree / "lib").symlink_to("usr/lib")
        release = _describe(tree).release
        _checked([str(program("busybox")), "depmod", "-b", str(tree), release], remedy)
        _write_manifest(tree)
        return tree.rename(kernels / package)


def _fetch(folder: Path) -> tuple[str, Path]:
    """Download the package KERNEL_PACKAGE depends on; gives its name and the archive.

    The machine's package lists are tried first; where they are absent or stale, private ones are fetched,
    for which no root is needed either.
    """
    private = ["-o", f"Dir::State::lists={folder}/lists", "-o", f"Dir::Cache={folder}/cache"]
    for options in ([], private):
        if options:
            (folder / "lists/partial").mkdir(parents=True)
            (folder / "cache").mkdir()
            _run(["apt-get", *options, "update"], folder)
        depends = _run(["apt-cache", *options, "depends", "--important", KERNEL_PACKAGE])
        match = re.search(r"Depends: (linux-image-\S+)", depends.stdout)
        if match and _run(["apt-get", *options, "download", match[1]], folder).returncode == 0:
            return match[1], next(folder.glob("linux-image-*.deb"))
    raise MpnetError(
        f"no kernel for a guest: the package {KERNEL_PACKAGE} is neither cached nor could it be downloaded",
        "check that a Debian mirror is reachable (not from a network namespace) and run: apt-get update",
    )


def _describe(tree: Path) -> Kernel:
    """Name the parts of an unpacked kernel package."""
    images = list(tree.glob("boot/vmlinuz-*"))
    if len(images) != 1:
        raise MpnetError(f"expected one kernel image under {tree}/boot, found {len(images)}", f"remove {tree}")
    release = images[0].name.removeprefix("vmlinuz-")
    return Kernel(release, images[0], tree / "lib/modules" / release)


def _files(tree: Path) -> dict[str, int]:
    """Sizes of a tree's regular files by their path within it, the manifest left out."""
    return {
        str(path.relative_to(tree)): path.stat().st_size
        for path in tree.rglob("*")
        if path.is_file() and not path.is_symlink() and path.name != _MANIFEST
    }


def _write_manifest(tree: Path) -> None:
    (tree / _MANIFEST).write_text(json.dumps(_files(tree)))


def _is_whole(tree: Path) -> bool:
    """Whether every file is there in its full size: cleaners and full disks leave trees with holes."""
    try:
        manifest = json.loads((tree / _MANIFEST).read_text())
    except (OSError, ValueError):
        return False
    return bool(manifest == _files(tree))


def _version_key(tree: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", tree.name)]


def _is_installed(package: str) -> bool:
    if shutil.which("dpkg-query") is None:
        return False
    status = _run(["dpkg-query", "-W", "-f", "${db:Status-Status}", package])
    return status.returncode == 0 and status.stdout == "installed"


def _root_prefix(remedy: str) -> list[str]:
    """Give what must stand before a command for it to run as root."""
    if shutil.which("apt-get") is None:
        raise MpnetError("there is no apt-get: the real parts come from Debian", "use a Debian machine")
    if os.geteuid() == 0:
        return []
    # -n: a test or a demo has nobody to type a password.
    if shutil.which("sudo") and _run(["sudo", "-n", "true"]).returncode == 0:
        return ["sudo", "-n"]
    raise MpnetError("installing packages needs root or sudo without a password", remedy)


def _run(command: Sequence[str], folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a package tool without questions, in the language its output is parsed in."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    try:
        return subprocess.run(
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=_APT_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(list(command), 127, "", str(error))


def _checked(command: Sequence[str], remedy: str) -> None:
    done = _run(command)
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        reason = lines[-1] if lines else f"exit status {done.returncode}"
        raise MpnetError(f"{' '.join(command)} failed: {reason}", remedy)
