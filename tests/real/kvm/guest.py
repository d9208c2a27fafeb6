"""Builds the freestanding guest with the machine's compiler and runs it in QEMU under KVM."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from mpnet.guest import debian

PARTS = ("qemu",)

_SOURCE = Path(__file__).with_name("guest.c")
_COMPILER = (
    "gcc -m32 -march=i686 -O1 -Wall -Wextra -Werror -ffreestanding -nostdlib -static -fno-pic -fno-pie -no-pie "
    "-fno-stack-protector -fno-asynchronous-unwind-tables -mgeneral-regs-only -fno-tree-loop-distribute-patterns "
    # One small segment, so that the multiboot header is among the first bytes.
    "-Wl,-m,elf_i386,-N,-Ttext=0x100000,--build-id=none,-z,noexecstack"
)
_GOOD = 33
"""QEMU's status when the guest has written 16 to isa-debug-exit."""
_TRACED = ("kvm_set_ioeventfd_mmio", "kvm_irqchip_*_msi_route", "virtio_queue_notify")
_PATIENCE = 120.0


@dataclass(frozen=True)
class Counted:
    """What came of a run.

    Attributes:
        answers: rounds in which the reply of the host came.
        rx_calls: interrupts of the rx ring's vector.
        tx_calls: likewise of the tx ring's.
        trace: QEMU's trace events of kicks and calls.
    """

    answers: int
    rx_calls: int
    tx_calls: int
    trace: str


def build(folder: Path) -> Path:
    """Compile the guest.

    Raises:
        AssertionError: there is no compiler for it, or it does not compile; with its words.
    """
    program = folder / "guest.elf"
    done = subprocess.run(
        [*_COMPILER.split(), "-o", str(program), str(_SOURCE)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"gcc that makes 32-bit x86 code is needed (apt-get install gcc): {done.stderr}"
    return program


def run(program: Path, socket: Path, folder: Path) -> Counted:
    """Run the guest on a device of one queue pair until it has ended by itself."""
    console, trace = folder / "console", folder / "trace"
    command = [
        str(debian.program("qemu-system-x86_64")),
        *("-accel", "kvm", "-cpu", "host", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-object", "memory-backend-memfd,id=mem,size=32M,share=on", "-m", "32"),
        *("-machine", "pc,memory-backend=mem", "-chardev", f"socket,id=net0,path={socket}"),
        *("-netdev", "vhost-user,id=net0,chardev=net0"),
        *("-device", "virtio-net-pci,netdev=net0,disable-legacy=on,vectors=3,romfile="),
        *("-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-debugcon", f"file:{console}"),
        *(word for event in _TRACED for word in ("-trace", event)),
        *("-D", str(trace), "-kernel", str(program)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_PATIENCE)
    said = console.read_text() if console.exists() else ""
    assert done.returncode == _GOOD, f"QEMU ended with {done.returncode}: {said} {done.stderr}"
    numbers = re.fullmatch(r"answers=(\d+) rx-calls=(\d+) tx-calls=(\d+)\n", said)
    assert numbers, said
    return Counted(*map(int, numbers.groups()), trace=trace.read_text())
