"""Whether QEMU can use KVM here: /dev/kvm may open and still serve no guest, as in nested machines."""

import subprocess
from contextlib import suppress
from pathlib import Path

from mpnet.errors import MpnetError
from mpnet.guest import debian
from mpnet.guest.linux.qemu import Accelerator

_KVM = Path("/dev/kvm")
_PROBE_SECONDS = 10.0
# QEMU sets a processor up, takes one command and leaves.
_PROBE = "-accel kvm -cpu host -S -m 16 -nodefaults -no-user-config -display none -monitor stdio"


def best() -> Accelerator:
    """Give "kvm" where a machine with it comes up, else "tcg".

    Raises:
        MpnetError: there is no QEMU.
    """
    if not _KVM.exists():
        return "tcg"
    command = [str(debian.program("qemu-system-x86_64")), *_PROBE.split()]
    with suppress(subprocess.TimeoutExpired):
        ended = subprocess.run(command, input=b"quit\n", capture_output=True, check=False, timeout=_PROBE_SECONDS)
        return "kvm" if ended.returncode == 0 else "tcg"
    return "tcg"


def best_or_kvm() -> Accelerator:
    """Give what is best here; "kvm" where there is no QEMU, as the guest will then run elsewhere."""
    try:
        debian.program("qemu-system-x86_64")
    except MpnetError:
        return "kvm"
    return best()
