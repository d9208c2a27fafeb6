"""Real parts: where they come from, how those of another release of Debian run, and which test asks for which."""

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from mpnet.errors import ConfigError, MpnetError
from mpnet.guest import apt, cache, debian, parts
from tests.real import linux_guest, netns, testpmd
from tests.real.asked import LINUX_GUEST, NETWORK, Supply, asked, asked_by, real
from tests.real.release import OWN_AND_NEWEST, taken


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    parts.root.cache_clear()
    return tmp_path / "mpnet"


# Which release.


def test_parts_are_this_machines_own_unless_said_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(parts.VARIABLE, raising=False)
    assert parts.chosen() == {}
    assert debian.root("uml") == Path("/")
    monkeypatch.setenv(parts.VARIABLE, "qemu=testing, kernel=trixie-backports,")
    assert parts.chosen() == {"qemu": "testing", "kernel": "trixie-backports"}


@pytest.mark.parametrize("text", ["qemu", "qemu=", "qemu=../..", "quemu=testing", "iperf3=testing", "=testing"])
def test_what_is_no_part_of_a_release_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected PART=RELEASE as qemu=testing; parts are qemu, kernel"):
        parts.chosen(text)


# Names of packages.


class Names(apt.Archive):
    """An archive with these packages."""

    def __init__(self, *names: str) -> None:
        self._have = names

    def names(self, pattern: str) -> list[str]:
        return apt.matching(pattern, self._have)


@pytest.mark.parametrize(
    ("archive", "expected"),
    [
        (("librte-net-tap23", "librte-net-tap-dev"), "librte-net-tap23"),
        (("librte-net-tap26",), "librte-net-tap26"),
        (("librte-net-tap9", "librte-net-tap26"), "librte-net-tap26"),
        (("librte-net-tap-26",), "librte-net-tap-26"),
    ],
)
def test_numbers_in_names_of_packages_are_the_archives(archive: tuple[str, ...], expected: str) -> None:
    assert expected in parts.packages(["dpdk"], Names(*archive))


@pytest.mark.parametrize(
    ("archive", "expected"),
    [(("prometheus",), ["prometheus"]), (("prometheus", "promtool"), ["prometheus", "promtool"])],
)
def test_of_several_names_the_first_that_there_is_counts(archive: tuple[str, ...], expected: list[str]) -> None:
    assert parts.packages(["prometheus"], Names(*archive)) == expected


def test_a_part_is_here_with_all_its_programs_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "here", lambda program: Path("/usr/bin") / program)
    driver = tmp_path / "pmds-23.0/driver.so"
    monkeypatch.setitem(parts.PARTS, "dpdk", parts.Part(("a",), ("b",), (f"{tmp_path}/pmds-*/driver.so"[1:],)))
    assert not parts.is_here("dpdk")
    driver.parent.mkdir()
    driver.touch()
    assert parts.is_here("dpdk")
    monkeypatch.setattr(parts, "here", lambda _: None)
    assert not parts.is_here("dpdk")


# An archive, and what is fetched from it.


class Packages(apt.Archive):
    """An archive of packages made here, each with its files and what it depends on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.versions: dict[str, str] = {}
        self.updates = 0

    def add(self, name: str, files: dict[str, bytes]) -> None:
        source = self.folder / name
        for path, content in files.items():
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            (source / path).write_bytes(content)
            (source / path).chmod(0o755)
        (source / "DEBIAN").mkdir(parents=True)
        (source / "DEBIAN/control").write_text(
            f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b>\nDescription: a\n"
        )
        self.versions[name] = "1"

    def update(self) -> None:
        self.updates += 1

    def names(self, pattern: str) -> list[str]:
        return apt.matching(pattern, self.versions)

    def closure(self, packages: Iterable[str]) -> dict[str, str]:
        return self.versions if set(packages) <= self.versions.keys() else {}

    def download(self, packages: dict[str, str], folder: Path) -> None:
        for name in packages:
            subprocess.run(["dpkg-deb", "--build", self.folder / name, folder], check=True, capture_output=True)


@pytest.fixture
def packages(own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Packages:
    made = Packages(tmp_path / "packages")
    monkeypatch.setattr(parts, "Archive", lambda *_: made)
    monkeypatch.setattr(apt, "Archive", lambda *_: made)
    return made


def test_a_program_of_another_release_runs_by_its_loader_and_libraries(
    packages: Packages, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = b'#!/bin/sh\necho "$(basename "$0")" "$@"\n'
    packages.add("libc6", {"lib/x86_64-linux-gnu/ld-linux-x86-64.so.2": loader})  # as before /usr was merged
    packages.add("qemu-system-x86", {"usr/bin/qemu-system-x86_64": b"", "usr/share/qemu/a": b""})
    monkeypatch.setenv(parts.VARIABLE, "qemu=trixie")
    assert debian.missing(["qemu"]) == []
    root = debian.root("qemu")
    said = subprocess.run(
        [root / "bin/qemu-system-x86_64", "-m", "1 G"], capture_output=True, text=True, check=True
    ).stdout
    assert said == (
        f"qemu-system-x86_64 --library-path {root}/usr/lib/x86_64-linux-gnu --argv0 qemu-system-x86_64"
        f" {root}/usr/bin/qemu-system-x86_64 -L {root}/usr/share/qemu -L {root}/usr/share/seabios -m 1 G\n"
    )
    assert parts.version("qemu") == "1"


def test_it_is_fetched_once_and_again_where_it_has_a_hole(packages: Packages) -> None:
    packages.add("libc6", {"usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2": b""})
    packages.add("user-mode-linux", {"usr/bin/linux.uml": b"image"})
    root = parts.root("uml", "trixie")
    parts.root.cache_clear()
    assert (parts.root("uml", "trixie"), packages.updates) == (root, 1)
    (root / "usr/bin/linux.uml").write_bytes(b"")
    parts.root.cache_clear()
    assert (parts.root("uml", "trixie") / "usr/bin/linux.uml").read_bytes() == b"image"
    assert packages.updates == 2
    assert sorted(path.name for path in root.parent.iterdir()) == ["lock", "uml"]


def test_what_a_release_does_not_have_is_named(packages: Packages) -> None:
    with pytest.raises(
        MpnetError, match=r"dpdk of Debian's release 'sid' cannot be had: it lacks some of dpdk-dev"
    ):
        parts.root("dpdk", "sid")


META = {
    "one package": {"linux-image-6.1.0-1-cloud-amd64": ("boot/vmlinuz-6.1.0", "lib/modules/6.1.0/kernel/a")},
    "several": {
        "linux-base-6.1.0": ("usr/share/doc/a",),
        "linux-binary-6.1.0-cloud-amd64": ("usr/lib/modules/6.1.0/vmlinuz",),
        "linux-modules-6.1.0-cloud-amd64": ("usr/lib/modules/6.1.0/kernel/a",),
        "linux-image-6.1.0-cloud-amd64": ("usr/share/doc/b",),
    },
}


@pytest.mark.parametrize("content", META.values(), ids=META.keys())
@pytest.mark.parametrize("release", ["", "testing"])
@real("busybox")
def test_a_kernel_is_what_its_meta_package_leads_to(
    packages: Packages, monkeypatch: pytest.MonkeyPatch, content: dict[str, tuple[str, ...]], release: str
) -> None:
    for name, files in content.items():
        packages.add(name, dict.fromkeys(files, b"a"))
    packages.add("linux-image-cloud-amd64", {})
    packages.add("initramfs-tools", {"usr/sbin/update-initramfs": b"a"})
    monkeypatch.setenv(parts.VARIABLE, f"kernel={release}" if release else "")
    assert not debian.has_kernel()
    kernel = debian.kernel()
    assert (kernel.release, kernel.image.read_bytes()) == ("6.1.0", b"a")
    assert (kernel.modules / "modules.dep").exists()
    assert not list(kernel.image.parent.parent.glob("usr/sbin/*"))
    assert debian.has_kernel()


# The mirror.

SOURCES = """\
https://example.org/tools stable main
http://mirror.example/debian trixie contrib
http://mirror.example/debian trixie main
http://mirror.example/debian-security trixie-security main
"""


def test_other_releases_come_from_the_machines_own_mirror(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apt, "run", lambda command: subprocess.CompletedProcess(command, 0, SOURCES, ""))
    release = tmp_path / "os-release"
    monkeypatch.setattr(apt, "_OS_RELEASE", release)
    release.write_text("ID=debian\nVERSION_CODENAME=trixie\n")
    assert apt.mirror() == "http://mirror.example/debian"
    release.write_text("ID=debian\nVERSION_CODENAME=forky\n")
    with pytest.raises(MpnetError, match="no mirror of Debian"):
        apt.mirror()
    monkeypatch.setattr(
        apt,
        "run",
        lambda command: subprocess.CompletedProcess(
            command, 0, SOURCES.replace("trixie main", "testing main"), ""
        ),
    )
    assert apt.mirror() == "http://mirror.example/debian"
    release.write_text("ID=ubuntu\nVERSION_CODENAME=trixie\n")
    with pytest.raises(MpnetError, match="no mirror of Debian among this machine's package sources"):
        apt.mirror()


# The cache.


@pytest.mark.parametrize("mode", [0o777, 0o720])
def test_programs_are_not_run_from_a_cache_that_others_may_write_to(own_cache: Path, mode: int) -> None:
    own_cache.mkdir()
    own_cache.chmod(mode)
    with pytest.raises(MpnetError, match=r"mpnet can be written to by others: make .* own and chmod go-w it"):
        cache.cache_directory()
    own_cache.chmod(0o700)
    assert cache.cache_directory() == own_cache


def test_a_cache_that_is_a_link_is_not_followed(own_cache: Path, tmp_path: Path) -> None:
    own_cache.symlink_to(tmp_path)
    with pytest.raises(MpnetError, match="mpnet is a link"):
        cache.cache_directory()


def test_a_new_cache_is_the_users_alone_whatever_the_umask(own_cache: Path) -> None:
    before = os.umask(0)
    try:
        assert cache.cache_directory().stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(before)


# What tests ask for.


def _frames() -> None:
    netns.tap("tap0")


class _Driver:
    """A helper that runs testpmd."""

    def __init__(self) -> None:
        self.program = testpmd.Testpmd


@real("tshark")
def _read() -> None:
    _frames()


def _boot() -> object:
    return lambda: linux_guest.ping


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (len, set()),
        (_frames, {NETWORK}),
        (_Driver, {"dpdk"}),
        (_read, {NETWORK, "tshark"}),
        (_boot, {*LINUX_GUEST}),
        (lambda: (_Driver(), _boot()), {"dpdk", *LINUX_GUEST}),
    ],
)
def test_what_runs_a_part_asks_for_it(function: object, expected: set[str]) -> None:
    assert asked_by([function]) == expected


def test_a_part_that_is_missing_fails_the_tests_that_ask_for_it_alone() -> None:
    asked_for: list[list[str]] = []

    def require(names: Iterable[str]) -> None:
        asked_for.append(list(names))
        if "dpdk" in names:
            raise MpnetError("no such package", "apt-get update")

    supply = Supply(require)
    supply.have(["qemu", "dpdk", NETWORK, "qemu"])
    assert asked_for == [["dpdk", "qemu"], ["dpdk"], ["qemu"]]
    assert supply.lacking(["qemu", NETWORK]) == ""
    assert supply.lacking(["qemu", "dpdk"]) == "dpdk, of Debian, cannot be had: no such package: apt-get update"


def test_what_a_test_takes_from_another_release_is_fetched_beside_what_is_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    had: list[tuple[str, str]] = []
    monkeypatch.setattr(parts, "root", lambda name, release: had.append((name, release)))
    monkeypatch.setattr(parts, "is_here", lambda _: True)
    monkeypatch.setenv(parts.VARIABLE, "dpdk=trixie,uml=trixie")
    debian.require(["qemu", "dpdk", "qemu=testing"])
    assert had == [("dpdk", "trixie"), ("qemu", "testing")]


@pytest.mark.parametrize("release", OWN_AND_NEWEST)
def test_a_parameter_takes_parts_from_the_newest_release(release: str, request: pytest.FixtureRequest) -> None:
    before = parts.chosen()
    with taken(release):
        assert parts.chosen() == ({"qemu": "testing", "kernel": "testing"} if release else before)
    assert parts.chosen() == before
    assert (asked(request.node) == {"qemu=testing", "kernel=testing"}) == bool(release)


def test_a_test_that_runs_what_it_did_not_ask_for_is_refused() -> None:
    with pytest.raises(AssertionError, match=r'tmux: say real\("tmux"\) of what runs it'):
        debian.program("tmux")
