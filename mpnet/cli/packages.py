"""Python packages that mpnet needs: which are missing, and the command that brings them."""

import re
import shlex
import shutil
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

COMPILED = frozenset({"posix_ipc"})
"""Those without a wheel for every Python: installing them may compile them."""


def requirements(extra: str = "") -> list[str]:
    """What mpnet's own metadata asks for: always, or for an extra and those that it is made of."""
    found: list[str] = []
    for requirement in metadata.requires("mpnet") or ():
        what, _, condition = requirement.partition(";")
        wanted = re.search(r"extra == ['\"]([\w-]+)['\"]", condition)
        if (wanted[1] if wanted else "") != extra:
            continue
        inner = re.match(r"mpnet\[([\w-]+)\]", what)
        found += requirements(inner[1]) if inner else [what.strip()]
    return found


def missing() -> list[str]:
    """Requirements that nothing is installed for."""
    return [each for each in requirements() if not _is_installed(name_of(each))]


def name_of(requirement: str) -> str:
    """The package of a requirement, as "numpy" of "numpy>=2"."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    return match[0] if match else requirement


def install_command(wanted: list[str]) -> str:
    """The command that installs requirements beside this mpnet, and what has to be there for it."""
    pip = shlex.join([sys.executable, "-m", "pip", "install", *wanted])
    if COMPILED & set(map(name_of, wanted)) and not can_compile():
        return f"as root: apt-get install gcc libc6-dev python3-dev, then: {pip}"
    return pip


def can_compile() -> bool:
    """Whether an extension of this Python can be compiled here."""
    header = Path(sysconfig.get_path("include")) / "Python.h"
    return header.exists() and shutil.which("cc") is not None


def _is_installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True
