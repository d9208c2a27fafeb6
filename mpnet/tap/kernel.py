"""What is known of kernels that harm frames the data path hands them in good order."""

import platform
import re

_MANGLES_FROM, _MENDED = (7, 0, 0), (7, 1, 5)
REMEDY = "gro=off for devices whose frames leave through a network card, or a newer kernel"


def udp_gso_fault(release: str | None = None) -> str:
    """Say what a kernel does to coalesced UDP that leaves the host; empty where nothing is known against it.

    Public reports have Linux 7.0 to 7.1.4 mangle UDP superframes on their way out of cards that segment in part
    (NETIF_F_GSO_PARTIAL). Distributions may have mended theirs: the release does not tell.

    Args:
        release: as ``uname -r`` says it; None for this machine's.
    """
    release = platform.release() if release is None else release
    numbers = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", release)
    if numbers is None:
        return ""
    version = int(numbers[1]), int(numbers[2]), int(numbers[3] or 0)
    if not _MANGLES_FROM <= version < _MENDED:
        return ""
    return f"Linux {release} may mangle coalesced UDP on its way out of cards that segment in part"
