"""Whether QEMU can use KVM here: /dev/kvm may open and still serve no guest, as in nested machines."""

import functools
import struct
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

from mpnet.errors import MpnetError
from mpnet.guest import debian
from mpnet.guest.linux.qemu import Accelerator

_KVM = Path("/dev/kvm")
_PROBE_SECONDS = 3.0
# Machines inside machines may emulate every instruction, at half a million a second: no Linux boots so.
_PROBE = (
    "-accel kvm -cpu host -m 16 -nodefaults -no-user-config -display none -no-reboot "
    "-device isa-debug-exit,iobase=0xf4,iosize=1 -kernel"
)
_COUNTED = 33
"""QEMU's status when 16 is written to isa-debug-exit."""
_ADDRESS = 0x100000
_COUNT = bytes.fromhex(
    "b9002d3101"  # mov ecx, 20000000
    "4975fd"  # dec ecx; jnz to itself
    "b010e6f4"  # mov al, 16; out 0xf4, al
    "f4ebfd"  # hlt, for ever
)
"""A program of 32-bit x86: a hundredth of a second on a processor, and minutes in KVM's emulator."""


def best() -> Accelerator:
    """Give "kvm" where a guest gets a processor by it, else "tcg".

    Raises:
        MpnetError: there is no QEMU.
    """
    return _best(str(debian.program("qemu-system-x86_64"))) if _KVM.exists() else "tcg"


@functools.cache
def _best(qemu: str) -> Accelerator:
    with tempfile.NamedTemporaryFile(prefix="mpnet-probe-") as program:
        program.write(_multiboot(_COUNT))
        program.flush()
        with suppress(subprocess.TimeoutExpired):
            ended = subprocess.run(
                [qemu, *_PROBE.split(), program.name], capture_output=True, check=False, timeout=_PROBE_SECONDS
            )
            return "kvm" if ended.returncode == _COUNTED else "tcg"
    return "tcg"


def _multiboot(code: bytes) -> bytes:
    """A program as QEMU's ``-kernel`` takes it without ELF: a header that says where it is loaded and begins."""
    magic, flags = 0x1BADB002, 1 << 16
    entry = _ADDRESS + 32
    addresses = (_ADDRESS, _ADDRESS, entry + len(code), entry + len(code), entry)
    return struct.pack("<8I", magic, flags, -(magic + flags) & 0xFFFFFFFF, *addresses) + code


def best_or_kvm() -> Accelerator:
    """Give what is best here; "kvm" where there is no QEMU, as the guest will then run elsewhere."""
    try:
        debian.program("qemu-system-x86_64")
    except MpnetError:
        return "kvm"
    return best()
