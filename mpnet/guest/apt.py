"""Debian's package tools: install on this machine, or download from its mirror without touching it."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from mpnet.errors import MpnetError

# A mirror that hangs must not hang the tests; the largest download is some 70 MB.
_APT_SECONDS = 600
# dpkg-deb by itself puts a folder in the place of a link to one.
_UNPACK = 'dpkg-deb --fsys-tarfile "$0" | tar --extract --keep-directory-symlink --no-same-owner --directory "$1"'
_KEYRINGS = Path("/usr/share/keyrings")
_OS_RELEASE = Path("/etc/os-release")
# What Debian calls the releases beside their names.
_ALIASES = {"oldstable", "stable", "testing", "unstable", "sid"}


def install(packages: Sequence[str]) -> None:
    """Install Debian packages, without their recommendations, as root or through sudo.

    Raises:
        MpnetError: no apt-get, no right to use it, or apt-get failed; with the command to run by hand.
    """
    if not packages:
        return
    command = ["apt-get", "install", "--no-install-recommends", "-y", *packages]
    remedy = "run as root: apt-get update && " + " ".join(command)
    prefix = _root_prefix(remedy)
    # Lists may be absent (a fresh container) or older than the mirror; either way one update mends it.
    if run([*prefix, *command]).returncode != 0:
        checked([*prefix, "apt-get", "update"], remedy)
        checked([*prefix, *command], remedy)


class Archive:
    """A Debian archive, asked and downloaded from without root and without a change to this machine.

    Args:
        folder: for its state; its package lists stay there for the next time.
        suite: a release of Debian, as "trixie" or "testing", on the machine's own mirror; empty for what the
            machine's own sources have.
    """

    def __init__(self, folder: Path, suite: str = "") -> None:
        self._folder = folder
        self._suite = suite
        # No package counts as installed: all that a package needs comes with it.
        self._options = _options({"Dir::State::status": "/dev/null", "APT::Install-Recommends": "false"})
        if suite:
            self._make_private()

    def update(self) -> None:
        """Fetch the package lists, into lists of its own.

        Raises:
            MpnetError: the mirror cannot be reached, or has no such release.
        """
        self._make_private()
        remedy = "check that a Debian mirror is reachable (not from a network namespace)"
        checked(["apt-get", *self._options, "update", "-o", "APT::Update::Error-Mode=any"], remedy)

    def names(self, pattern: str) -> list[str]:
        """Give the packages there are by this name, in which a ``#`` stands for digits."""
        stem, _, _ = pattern.partition("#")
        said = run(["apt-cache", *self._options, "pkgnames", stem]).stdout.split()
        return matching(pattern, said)

    def closure(self, packages: Sequence[str]) -> dict[str, str]:
        """Give packages with all that they depend on, with their versions; empty where one cannot be had."""
        done = run(["apt-get", *self._options, "--simulate", "install", *packages])
        if done.returncode != 0:
            return {}
        return dict(re.findall(r"^Inst (\S+) \((\S+)", done.stdout, re.MULTILINE))

    def unpack(self, packages: dict[str, str], folder: Path, tree: Path) -> None:
        """Download packages of these versions into a folder and unpack them over each other into a tree.

        Raises:
            MpnetError: one cannot be had any more, or there is no room.
        """
        self.download(packages, folder)
        for path in ("usr/bin", "usr/sbin", "usr/lib", "usr/lib64"):
            # As every release has it now; older packages say lib/… where newer say usr/lib/….
            (tree / path).mkdir(parents=True, exist_ok=True)
            (tree / Path(path).name).symlink_to(path)
        for archive in sorted(folder.glob("*.deb")):
            command = ["bash", "-o", "pipefail", "-c", _UNPACK, str(archive), str(tree)]
            checked(command, f"free disk space under {folder}, then try again")

    def download(self, packages: dict[str, str], folder: Path) -> None:
        """Download packages of these versions into a folder.

        Raises:
            MpnetError: one cannot be had any more, or there is no room.
        """
        wanted = [f"{name}={version}" for name, version in packages.items()]
        checked(
            ["apt-get", *self._options, "download", *wanted],
            f"check that a Debian mirror is reachable and that there is room under {folder}",
            folder,
        )

    def _make_private(self) -> None:
        (self._folder / "lists/partial").mkdir(parents=True, exist_ok=True)
        (self._folder / "cache/archives/partial").mkdir(parents=True, exist_ok=True)
        settings = {
            "Dir::State": self._folder,
            "Dir::State::lists": self._folder / "lists",
            "Dir::State::status": "/dev/null",
            "Dir::Cache": self._folder / "cache",
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "",
            "Debug::NoLocking": "true",
        }
        if self._suite:
            sources = self._folder / "sources.list"
            sources.write_text(f"deb {_signed_by()}{mirror()} {self._suite} main\n")
            settings |= {
                "Dir::Etc::SourceList": sources,
                "Dir::Etc::SourceParts": "/dev/null",
                "Dir::Etc::Preferences": "/dev/null",
                "Dir::Etc::PreferencesParts": "/dev/null",
                "APT::Default-Release": "",
                # A mirror of another day is as good.
                "Acquire::Check-Valid-Until": "false",
            }
        self._options = _options(settings)


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """Give the names that a pattern, in which a ``#`` stands for digits, has room for, in order."""
    wanted = re.compile(re.escape(pattern).replace(r"\#", r"-?\d+"))
    return sorted(name for name in names if wanted.fullmatch(name))


def run(command: Sequence[str], folder: Path | None = None) -> subprocess.CompletedProcess[str]:
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


def checked(command: Sequence[str], remedy: str, folder: Path | None = None) -> None:
    """Run a package tool that has to succeed.

    Raises:
        MpnetError: it did not, with its last line.
    """
    done = run(command, folder)
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        reason = lines[-1] if lines else f"exit status {done.returncode}"
        raise MpnetError(f"{' '.join(command)} failed: {reason}", remedy)


def _options(settings: dict[str, object]) -> list[str]:
    return [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]


def mirror() -> str:
    """The address of the archive that this machine's own packages come from.

    Raises:
        MpnetError: this is no Debian, or its sources name no archive.
    """
    said = run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"]
    )
    sources = [line.split() for line in said.stdout.splitlines() if line.endswith(" main")]
    release = _OS_RELEASE.read_text() if _OS_RELEASE.exists() else ""
    codename = re.search(r'^VERSION_CODENAME="?(\w+)', release, re.MULTILINE)
    found = []
    if codename and re.search(r'^ID="?debian', release, re.MULTILINE):
        found = [uri for uri, suite, _ in sources if suite == codename[1]]
        # Others' archives have a "stable" as well.
        found += [uri for uri, suite, _ in sources if suite in _ALIASES and uri.rstrip("/").endswith("/debian")]
    if not found:
        raise MpnetError(
            "no mirror of Debian among this machine's package sources: /etc/apt/sources.list.d/ names none",
            "use a Debian machine; parts of other releases come from its mirror",
        )
    return found[0]


def _signed_by() -> str:
    keys = sorted(_KEYRINGS.glob("debian-archive-keyring.*"))
    return f"[signed-by={keys[0]}] " if keys else ""


def _root_prefix(remedy: str) -> list[str]:
    """Give what must stand before a command for it to run as root."""
    if shutil.which("apt-get") is None:
        raise MpnetError("there is no apt-get: the real parts come from Debian", "use a Debian machine")
    if os.geteuid() == 0:
        return []
    # -n: a test or a demo has nobody to type a password.
    if shutil.which("sudo") and run(["sudo", "-n", "true"]).returncode == 0:
        return ["sudo", "-n"]
    raise MpnetError("installing packages needs root or sudo without a password", remedy)
