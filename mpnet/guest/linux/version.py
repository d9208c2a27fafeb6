"""Which QEMU is on this machine, and what of its command line and manners depends on that."""

import re
import subprocess
from contextlib import suppress
from pathlib import Path

from mpnet.errors import ConfigError, MpnetError
from mpnet.guest import debian

Version = tuple[int, int]
"""Major and minor."""

RECONNECT_MS: Version = (9, 2)
"""From here on a socket takes ``reconnect-ms=``; ``reconnect=`` is deprecated, and refused by 11.1."""

TCG_VECTORS: Version = (10, 0)
"""From here on a guest of a vhost-user device may enable MSI-X under TCG; QEMU 7.2 crashes."""

_ASK_SECONDS = 30.0


def parse(text: str) -> Version:
    """Read the version that is in a text: ``10.1``, ``QEMU emulator version 7.2.22 (Debian …)``.

    Raises:
        ConfigError: there is none.
    """
    found = re.search(r"(\d+)\.(\d+)", text)
    if found is None:
        raise ConfigError(f"the version of QEMU is {text!r}, expected two numbers like 10.1")
    return int(found[1]), int(found[2])


def of(program: Path) -> Version | None:
    """Ask a QEMU for its version; None where it does not tell."""
    with suppress(OSError, subprocess.SubprocessError, ConfigError):
        command = [str(program), "--version"]
        return parse(
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=_ASK_SECONDS).stdout
        )
    return None


def installed() -> Version | None:
    """Give the version of this machine's QEMU; None where there is none."""
    with suppress(MpnetError):
        return of(debian.program("qemu-system-x86_64"))
    return None
