"""Real parts that mpnet is run with: what Debian's packages they are, and where they come from.

They are this machine's own, unless MPNET_PARTS says otherwise: ``qemu=testing,kernel=trixie`` takes QEMU and a
guest's kernel from those releases of Debian. Their packages, with all they depend on, are then downloaded from
the machine's own mirror and unpacked below the user's cache, which needs no root; programs run from there by the
loader and the libraries of their release. ``python -m mpnet.guest.parts qemu=testing`` fetches ahead of time, as
where they are used there may be no network.
"""

import functools
import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mpnet.errors import ConfigError, MpnetError
from mpnet.guest.apt import Archive, checked, run
from mpnet.guest.cache import cache_directory, cache_lock, finish, is_whole, unfinished

VARIABLE = "MPNET_PARTS"
"""Environment variable: comma-separated ``PART=RELEASE``."""

_KERNEL_PACKAGES = re.compile(r"linux-(image|binary|modules)-\d")
_ANY = re.compile("")
_INTERPRETER = re.compile(rb"/lib(64)?/ld-linux-[a-z0-9_-]+\.so\.\d+(?=\0)")
_LOADER = b"ld.so"
_VERSIONS = "packages.json"


@dataclass(frozen=True)
class Part:
    """What comes from Debian together.

    Attributes:
        packages: which bring it. In a name ``#`` stands for digits, which differ by release; of names with ``|``
            in between the first that there is counts.
        programs: by which it is known to be on a machine.
        files: further files by which it is known, as patterns below the root folder.
        unpacked: of the packages that those depend on, which are unpacked where it is fetched.
        options: for programs that look for files of theirs: words with ``{root}`` for where they are.
        starts_anew: a program that starts itself anew, or reckons from its own end in memory: started by its
            release's loader it would be that. It gets the loader in its own file instead.
    """

    packages: tuple[str, ...]
    programs: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    unpacked: re.Pattern[str] = _ANY
    options: str = ""
    starts_anew: bool = False


PARTS = {
    "qemu": Part(
        ("qemu-system-x86",),
        ("qemu-system-x86_64",),
        options="-L {root}/usr/share/qemu -L {root}/usr/share/seabios",
    ),
    "tcpdump": Part(("tcpdump",), ("tcpdump",)),
    "kernel": Part(("linux-image-cloud-amd64",), unpacked=_KERNEL_PACKAGES),
    "busybox": Part(("busybox-static",), ("busybox",)),
    "iperf3": Part(("iperf3",), ("iperf3",)),
    "ethtool": Part(("ethtool",), ("ethtool",)),
    "perl": Part(("perl-base",), ("perl",)),
    "setpriv": Part(("util-linux",), ("setpriv",)),
    "dpdk": Part(
        ("dpdk-dev", "librte-net-tap#", "librte-net-vhost#", "librte-net-virtio#"),
        ("dpdk-testpmd",),
        tuple(f"usr/lib/*/dpdk/pmds-*/librte_net_{name}.so" for name in ("tap", "vhost", "virtio")),
        options="-d {root}/usr/lib/*/dpdk/pmds-*",
    ),
    "uml": Part(("user-mode-linux",), ("linux.uml",), starts_anew=True),
    "prometheus": Part(("prometheus", "promtool|prometheus"), ("prometheus", "promtool")),
    "chromium": Part(("chromium",), ("chromium",)),
    "systemd": Part(("systemd",), ("systemd-analyze", "systemd-socket-activate")),
    "tmux": Part(("tmux",), ("tmux",)),
    "tshark": Part(("tshark",), ("tshark",)),
}
"""By name."""

ELSEWHERE = ("qemu", "kernel", "dpdk", "uml", "prometheus")
"""Parts that may come from another release than this machine's."""

GUEST = ("qemu", "busybox", "iperf3", "ethtool", "perl", "setpriv")
"""What a throw-away Linux guest is made of, its kernel apart."""


def part_of(program: str) -> str:
    """Name the part that brings a program."""
    return next(name for name, part in PARTS.items() if program in part.programs)


def chosen(text: str | None = None) -> dict[str, str]:
    """Give the releases that parts are taken from; parts that are this machine's own are left out.

    Args:
        text: as MPNET_PARTS has it, which is read where this is None.

    Raises:
        ConfigError: it is malformed, or names no part.
    """
    words = (os.environ.get(VARIABLE, "") if text is None else text).split(",")
    releases = {}
    for word in filter(None, map(str.strip, words)):
        name, _, release = word.partition("=")
        if name not in ELSEWHERE or not re.fullmatch(r"[a-z][a-z-]*", release):
            names = ", ".join(ELSEWHERE)
            raise ConfigError(
                f"{VARIABLE} has {word!r}, expected PART=RELEASE as qemu=testing; parts are {names}"
            )
        releases[name] = release
    return releases


def packages(names: Iterable[str], archive: Archive) -> list[str]:
    """Give the names that an archive has for the packages of parts."""
    return _names([PARTS[name] for name in names], archive)


def _names(parts: Iterable[Part], archive: Archive) -> list[str]:
    found = []
    for spec in (spec for part in parts for spec in part.packages):
        if "#" in spec:
            # Of several the newest: an older one waits there for what still depends on it.
            found += sorted(archive.names(spec), key=_number)[-1:] or [spec]
        elif "|" in spec:
            alternatives = spec.split("|")
            found.append(next((name for name in alternatives if archive.names(name)), alternatives[-1]))
        else:
            found.append(spec)
    return list(dict.fromkeys(found))


@functools.cache
def root(name: str, release: str) -> Path:
    """Give the folder that a part of another release lies in, fetched where it is not there yet.

    It has usr/ and lib/ as a machine has them, and in bin/ the programs of the part, ready to run.

    Raises:
        MpnetError: it cannot be had; with the remedy.
    """
    place = cache_directory() / "releases" / release / name
    if is_whole(place):
        return place
    with cache_lock(f"releases/{release}") as area:
        return place if is_whole(place) else _fetch(name, release, area)


def has_root(name: str, release: str) -> bool:
    """Tell whether ``root`` needs no network."""
    return is_whole(cache_directory() / "releases" / release / name)


def version(name: str, release: str = "") -> str:
    """Give the version of a part's first package, here or in a release; empty where unknown."""
    (package, *_) = PARTS[name].packages
    if release := release or chosen().get(name, ""):
        return str(json.loads((root(name, release) / _VERSIONS).read_text()).get(package, ""))
    done = run(["dpkg-query", "-W", "-f", "${Version}", package])
    return done.stdout if done.returncode == 0 else ""


def kernel_packages(archive: Archive) -> dict[str, str]:
    """Give the packages that hold a guest's kernel and its modules, with their versions.

    What is asked for is a meta package, and what that leads to may be one as well.
    """
    return _unpacked(PARTS["kernel"], archive)


def _unpacked(part: Part, archive: Archive) -> dict[str, str]:
    closure = archive.closure(_names([part], archive))
    return {name: version for name, version in closure.items() if part.unpacked.match(name)}


def _fetch(name: str, release: str, area: Path) -> Path:
    part = PARTS[name]
    archive = Archive(area / "apt", release)
    archive.update()
    wanted = _unpacked(part, archive)
    if not wanted:
        raise MpnetError(
            f"{name} of Debian's release {release!r} cannot be had: it lacks some of {', '.join(part.packages)}",
            f"name another release in {VARIABLE}",
        )
    with unfinished(area) as staging:
        tree = staging / "tree"
        (staging / "archives").mkdir()
        archive.unpack(wanted, staging / "archives", tree)
        (tree / _VERSIONS).write_text(json.dumps(wanted))
        _write_programs(part, tree, area / name)
        if name == "kernel":
            index_modules(tree)
        return finish(tree, area / name)


def _write_programs(part: Part, tree: Path, place: Path) -> None:
    """Write into bin/ what starts the part's programs once the tree is at its place."""
    (tree / "bin").unlink()  # a link, to where the release's own programs lie
    for folder in ("bin", "loader"):
        (tree / folder).mkdir()
    for name in part.programs:
        loader = next(tree.glob("usr/lib/*/ld-linux-*.so.*")).relative_to(tree)
        if part.starts_anew:
            start = _with_its_loader(tree, name, loader)
        else:
            # Under the program's name, which the kernel then shows for it.
            (tree / "loader" / name).symlink_to(Path("..") / loader)
            start = (
                f'exec "$root/loader/{name}" --library-path "$root/{loader.parent}" --argv0 {name} '
                f'"$root/usr/bin/{name}"'
            )
        options = part.options.replace("{root}", '"$root"')
        script = tree / "bin" / name
        script.write_text(f"#!/bin/sh\nroot='{place}'\n{start} {options} \"$@\"\n")
        script.chmod(0o755)


def _with_its_loader(tree: Path, name: str, loader: Path) -> str:
    """Make a copy of a program that asks the kernel for its release's loader; how it is started.

    The name of a loader in a program's file can only become shorter: this one is looked for in the program's
    working folder.
    """
    own = tree / "loader" / name
    own.write_bytes(_INTERPRETER.sub(_shortened, (tree / "usr/bin" / name).read_bytes(), count=1))
    own.chmod(0o755)
    (tree / "loader" / _LOADER.decode()).symlink_to(Path("..") / loader)
    return f'cd "$root/loader" && LD_LIBRARY_PATH="$root/{loader.parent}" exec ./{name}'


def _shortened(interpreter: re.Match[bytes]) -> bytes:
    return _LOADER.ljust(len(interpreter[0]), b"\0")


def here(program: str) -> Path | None:
    """Find a program on this machine, in the system folders too."""
    found = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/bin:/bin")
    return Path(found) if found else None


def is_here(name: str) -> bool:
    """Tell whether a part is on this machine: all its programs and files."""
    part = PARTS[name]
    return all(map(here, part.programs)) and all(any(Path("/").glob(pattern)) for pattern in part.files)


def index_modules(tree: Path) -> None:
    """Write modules.dep of every kernel in a tree.

    Raises:
        MpnetError: there is no busybox, or no room.
    """
    busybox = here("busybox")
    if busybox is None:
        raise MpnetError("the program busybox is not on this machine", "apt-get install busybox-static")
    for folder in (tree / "lib/modules").iterdir():
        checked([str(busybox), "depmod", "-b", str(tree), folder.name], f"free disk space under {tree}")


def _number(package: str) -> int:
    return int(re.findall(r"\d+", package)[-1])


def main(arguments: Mapping[str, str] | None = None) -> None:
    """Fetch parts: ``python -m mpnet.guest.parts qemu=testing kernel=testing``."""
    try:
        for name, release in (arguments or chosen(",".join(sys.argv[1:]))).items():
            print(f"{name} of {release}: {root(name, release)}")  # noqa: T201 - what the command is asked for
    except MpnetError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
