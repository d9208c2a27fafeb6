"""Debian's own parts for throw-away guests: QEMU, a kernel with its modules, traffic tools.

Programs are looked for on the machine. The kernel is never installed, as that would run the machine's
initramfs and boot-loader hooks: its package is downloaded and unpacked into a cache of the user's own, which
needs no root. MPNET_PARTS has either come from another release of Debian (see mpnet.guest.parts).
"""

import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mpnet.errors import MpnetError
from mpnet.guest import apt, parts
from mpnet.guest.cache import cache_directory, cache_lock, finish, is_whole, unfinished

LINUX_GUEST_PROGRAMS = tuple(program for name in parts.GUEST for program in parts.PARTS[name].programs)
"""What a throw-away Linux guest is made of, its kernel apart."""


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
    """Find a program of a part on this machine, in the system folders too, or of the release chosen for the part.

    Raises:
        MpnetError: it is missing; the remedy names its package.
    """
    part = parts.part_of(name)
    if release := parts.chosen().get(part):
        return parts.root(part, release) / "bin" / name
    found = parts.here(name)
    if found is None:
        raise MpnetError(
            f"the program {name} is not on this machine", f"apt-get install {' '.join(_packages([part]))}"
        )
    return found


def root(part: str) -> Path:
    """Give the folder below which a part has its files: "/", or that of the release chosen for it."""
    release = parts.chosen().get(part)
    return parts.root(part, release) if release else Path("/")


def missing_packages(programs: Iterable[str] = LINUX_GUEST_PROGRAMS) -> list[str]:
    """Name the packages that bring programs, which are neither here nor taken from elsewhere."""
    return missing(dict.fromkeys(map(parts.part_of, programs)))


def missing(names: Iterable[str]) -> list[str]:
    """Name the packages of parts that are not on this machine, nor chosen from elsewhere."""
    chosen = parts.chosen()
    absent = [name for name in names if name not in chosen and name != "kernel" and not parts.is_here(name)]
    return _packages(absent)


def require(names: Iterable[str]) -> None:
    """Install or fetch what is missing of parts; to be called where the network is.

    Args:
        names: of parts; "qemu=testing" is that of another release.

    Raises:
        MpnetError: one cannot be had; with the remedy.
    """
    wanted = list(names)
    own = [name for name in wanted if "=" not in name]
    install(missing(own))
    chosen = {name: release for name, release in parts.chosen().items() if name in own}
    elsewhere = parts.chosen(",".join(name for name in wanted if "=" in name))
    for name, release in (*chosen.items(), *elsewhere.items()):
        parts.root(name, release)
    if "kernel" in own:
        kernel()


def install(packages: Sequence[str]) -> None:
    """Install Debian packages, without their recommendations, as root or through sudo.

    Raises:
        MpnetError: no apt-get, no right to use it, or apt-get failed; with the command to run by hand.
    """
    apt.install(packages)


def kernel() -> Kernel:
    """Give a Debian cloud kernel: that of the release chosen, else the newest of the cache, else one downloaded.

    Raises:
        MpnetError: none is cached and none could be downloaded; names the package and the remedy.
    """
    if release := parts.chosen().get("kernel"):
        return _describe(parts.root("kernel", release))
    with cache_lock() as cache:
        kernels = cache / "kernels"
        kernels.mkdir(exist_ok=True)
        for tree in sorted(kernels.glob("linux-image-*"), key=_version_key, reverse=True):
            if is_whole(tree):
                return _describe(tree)
            shutil.rmtree(tree)
        return _describe(_download_kernel(kernels))


def has_kernel() -> bool:
    """Tell whether a kernel is cached, so that ``kernel`` needs no network."""
    if release := parts.chosen().get("kernel"):
        return parts.has_root("kernel", release)
    return any(is_whole(tree) for tree in cache_directory().glob("kernels/linux-image-*"))


def _download_kernel(kernels: Path) -> Path:
    """Unpack the kernel's packages into `kernels` by one rename of a whole tree."""
    with unfinished(kernels.parent) as staging:
        tree = staging / "tree"
        name = _fetch(staging, tree)
        _describe(tree)
        parts.index_modules(tree)
        return finish(tree, kernels / name)


def _fetch(staging: Path, tree: Path) -> str:
    """Download the kernel that this machine's sources have and unpack it; gives the name of its image's package.

    The machine's package lists are tried first; where they are absent or stale, private ones are fetched,
    for which no root is needed either.
    """
    (package,) = parts.PARTS["kernel"].packages
    archive = apt.Archive(staging / "apt")
    (staging / "archives").mkdir()
    for fresh in (False, True):
        if fresh:
            archive.update()
        # What a meta package leads to: newer kernels come in several packages.
        wanted = parts.kernel_packages(archive)
        if not wanted:
            continue
        try:
            archive.unpack(wanted, staging / "archives", tree)
        except MpnetError:
            if fresh:
                raise
            shutil.rmtree(tree, ignore_errors=True)
            continue
        return next(name for name in wanted if name.startswith("linux-image-"))
    raise MpnetError(
        f"no kernel for a guest: the package {package} is neither cached nor could it be downloaded",
        "check that a Debian mirror is reachable (not from a network namespace) and run: apt-get update",
    )


def _describe(tree: Path) -> Kernel:
    """Name the parts of unpacked kernel packages, whose image lies in /boot, or beside its modules."""
    images = [*tree.glob("boot/vmlinuz-*"), *tree.glob("lib/modules/*/vmlinuz")]
    if len(images) != 1:
        raise MpnetError(f"expected one kernel image under {tree}, found {len(images)}", f"remove {tree}")
    (image,) = images
    release = image.parent.name if image.name == "vmlinuz" else image.name.removeprefix("vmlinuz-")
    return Kernel(release, image, tree / "lib/modules" / release)


def _version_key(tree: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", tree.name)]


def _packages(names: Sequence[str]) -> list[str]:
    return parts.packages(names, apt.Archive(cache_directory() / "apt"))
