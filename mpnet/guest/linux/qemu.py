"""QEMU's command line: what attaches a guest to an mpnet device, and what boots a throw-away one.

Every function here is pure: options in, arguments out.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mpnet.errors import ConfigError
from mpnet.guest.linux.version import RECONNECT_MS, TCG_VECTORS, Version

MIN_RING_SIZE = 256
MAX_RING_SIZE = 1024
"""What QEMU's virtio-net accepts for rx_queue_size and tx_queue_size, in powers of two."""

MEMORY_ID = "mem"

Accelerator = Literal["kvm", "tcg"]

_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")


@dataclass(frozen=True, kw_only=True)
class Nic:
    """What a guest's virtio-net device is, whoever serves it.

    Attributes:
        queue_pairs: receive/transmit virtqueue pairs.
        mac: six hexadecimal octets; None lets QEMU choose one.
        mtu: bytes of payload, told to the driver as VIRTIO_NET_F_MTU; None tells nothing.
        rx_queue_size: entries of each receive ring; None leaves QEMU's 256.
        tx_queue_size: entries of each transmit ring; None leaves QEMU's 256.
        packed: let the driver use packed virtqueues.
        options: further words of the device, as "mrg_rxbuf=off".
        name: the id of the network back-end and prefix of the others.
    """

    queue_pairs: int = 1
    mac: str | None = None
    mtu: int | None = None
    rx_queue_size: int | None = None
    tx_queue_size: int | None = None
    packed: bool = False
    options: tuple[str, ...] = ()
    name: str = "net0"

    def __post_init__(self) -> None:
        if self.queue_pairs < 1:
            raise ConfigError(f"queue_pairs is {self.queue_pairs}, expected 1 or more")
        if self.mac is not None and not _MAC.fullmatch(self.mac):
            raise ConfigError(f"mac is {self.mac!r}, expected six octets like 52:54:00:12:34:56")
        for key, size in (("rx_queue_size", self.rx_queue_size), ("tx_queue_size", self.tx_queue_size)):
            if size is None or (MIN_RING_SIZE <= size <= MAX_RING_SIZE and size & (size - 1) == 0):
                continue
            raise ConfigError(
                f"{key} is {size}, but QEMU takes powers of two from {MIN_RING_SIZE} to {MAX_RING_SIZE}"
            )


@dataclass(frozen=True, kw_only=True)
class VhostUserNic(Nic):
    """A device served over vhost-user, as by mpnet.

    Attributes:
        socket: the back-end's Unix socket.
        reconnect: seconds between attempts to connect again; 0 gives up after the first loss.
    """

    socket: str
    reconnect: int = 1


@dataclass(frozen=True, kw_only=True)
class TapNic(Nic):
    """QEMU's own device in front of an existing TAP, without vhost-net: the peer to compare with.

    Attributes:
        interface: the TAP, multiqueue where there is more than one queue pair.
    """

    interface: str


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The virtual machine around the device.

    Attributes:
        accel: "kvm", or "tcg" where KVM does not serve.
        machine: QEMU's machine type: "q35", "pc" or "microvm". A microvm under TCG may hang in a
            reboot of its guest.
        smp: virtual processors.
        memory_mib: RAM at start.
        backend: where guest memory lives: an anonymous "memfd", or a "file" under `memory_path`; shared
            with the back-end either way.
        memory_path: folder of a "file" back-end.
        qemu: the version of QEMU that is to understand the options; None for a current one.
        slots: how many DIMMs may be added while running.
        max_memory_mib: RAM with all DIMMs; used where there are slots.
    """

    accel: Accelerator = "kvm"
    machine: str = "q35"
    qemu: Version | None = None
    smp: int = 2
    memory_mib: int = 1024
    backend: Literal["memfd", "file"] = "memfd"
    memory_path: str = "/dev/shm"  # noqa: S108 (POSIX shared memory is the point)
    slots: int = 0
    max_memory_mib: int = 8192

    def __post_init__(self) -> None:
        if self.slots and self.max_memory_mib <= self.memory_mib:
            raise ConfigError(
                f"max_memory_mib is {self.max_memory_mib}, expected more than memory_mib {self.memory_mib}"
            )


def memory_arguments(machine: Machine) -> list[str]:
    """Give the shared memory every vhost-user back-end needs, and the machine type that uses it."""
    size = f"{machine.memory_mib}M"
    if machine.slots:
        size += f",slots={machine.slots},maxmem={machine.max_memory_mib}M"
    # QEMU's virtio-mmio is of the legacy kind, without VERSION_1, unless told otherwise.
    modern = ["-global", "virtio-mmio.force-legacy=off"] if _has_only_mmio(machine) else []
    return [
        *("-machine", f"{machine.machine},memory-backend={MEMORY_ID}", *modern),
        *("-m", size),
        *("-object", ",".join(memory_object(machine, MEMORY_ID, machine.memory_mib))),
    ]


def memory_object(machine: Machine, identifier: str, size_mib: int) -> list[str]:
    """Give the words of one shared memory back-end: its type, then `key=value`."""
    words = [f"memory-backend-{machine.backend}", f"id={identifier}", f"size={size_mib}M", "share=on"]
    if machine.backend == "file":
        words.append(f"mem-path={_escaped(machine.memory_path)}")
    return words


def network_arguments(nic: VhostUserNic | TapNic, machine: Machine) -> list[str]:
    """Give the network back-end and the virtio-net device in front of it."""
    queues = [f"queues={nic.queue_pairs}"] if nic.queue_pairs > 1 else []
    if isinstance(nic, TapNic):
        interface = _escaped(nic.interface)
        tap = ["tap", f"id={nic.name}", f"ifname={interface}", "script=no", "downscript=no", "vhost=off", *queues]
        return ["-netdev", ",".join(tap), "-device", _device(nic, machine)]
    chardev = ["socket", f"id={nic.name}-socket", f"path={_escaped(nic.socket)}"]
    if nic.reconnect:
        chardev.append(_reconnect(nic.reconnect, machine))
    netdev = ["vhost-user", f"id={nic.name}", f"chardev={nic.name}-socket", *queues]
    return ["-chardev", ",".join(chardev), "-netdev", ",".join(netdev), "-device", _device(nic, machine)]


def attach_arguments(nic: VhostUserNic, machine: Machine) -> list[str]:
    """Give what a user adds to a QEMU of their own to attach it: `mpnet device qemu` prints this."""
    return [*_accel_arguments(machine), *memory_arguments(machine), *network_arguments(nic, machine)]


def boot_arguments(
    nic: VhostUserNic | TapNic, machine: Machine, kernel: str, initramfs: str, command_line: Sequence[str]
) -> list[str]:
    """Give a whole throw-away guest, its consoles apart.

    Args:
        nic: the device and who serves it.
        machine: the machine around it.
        kernel: path of a bzImage.
        initramfs: path of its archive.
        command_line: words for the kernel.
    """
    words = ["console=ttyS0", "quiet", "panic=-1", "reboot=t", "mitigations=off", *command_line]
    return [
        *_accel_arguments(machine),
        *("-cpu", "max" if machine.accel == "tcg" else "host"),
        *("-smp", str(machine.smp)),
        *("-nodefaults", "-no-user-config", "-display", "none"),
        *memory_arguments(machine),
        *network_arguments(nic, machine),
        *("-kernel", kernel, "-initrd", initramfs, "-append", " ".join(words)),
    ]


def channel_arguments(machine: Machine, agent: int, qmp: int) -> list[str]:
    """Give a guest's console on QEMU's standard output, the port of its agent and the monitor.

    Args:
        machine: the machine, which tells the kind of bus.
        agent: number of the inherited socket that becomes the agent's port.
        qmp: number of the inherited socket that becomes the monitor.
    """
    serial = "virtio-serial-device" if _has_only_mmio(machine) else "virtio-serial-pci"
    return [
        *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
        *("-chardev", f"socket,id=agent,fd={agent}"),
        *("-device", serial, "-device", "virtserialport,chardev=agent,name=mpnet.agent"),
        *("-chardev", f"socket,id=qmp,fd={qmp}", "-mon", "chardev=qmp,mode=control"),
    ]


def _reconnect(seconds: int, machine: Machine) -> str:
    """Give the word for it, which has changed: each version knows one of them only, or calls one deprecated."""
    return f"reconnect-ms={1000 * seconds}" if _is_since(RECONNECT_MS, machine) else f"reconnect={seconds}"


def _is_since(version: Version, machine: Machine) -> bool:
    return machine.qemu is None or machine.qemu >= version


def _has_only_mmio(machine: Machine) -> bool:
    return machine.machine.startswith("microvm")


def _accel_arguments(machine: Machine) -> list[str]:
    return ["-accel", "tcg,thread=multi" if machine.accel == "tcg" else machine.accel]


def _device(nic: Nic, machine: Machine) -> str:
    """Give the virtio-net device: over virtio-mmio on microvm, over PCI elsewhere."""
    mmio = _has_only_mmio(machine)
    words = ["virtio-net-device" if mmio else "virtio-net-pci", f"netdev={nic.name}"]
    if nic.mac:
        words.append(f"mac={nic.mac}")
    if nic.queue_pairs > 1:
        words.append("mq=on")
    if not mmio:
        words.append(f"vectors={_vectors(nic, machine)}")
        # The boot ROM would drive the device before the guest does.
        words.append("romfile=")
    if isinstance(nic, VhostUserNic):
        # QEMU would offer it and answer it alone: the back-end never hears that a guest's XDP program wants
        # whole checksums, and goes on sending it frames without. A guest that is not offered it refuses XDP.
        words.append("ctrl_guest_offloads=off")
    if nic.mtu:
        words.append(f"host_mtu={nic.mtu}")
    if nic.rx_queue_size:
        words.append(f"rx_queue_size={nic.rx_queue_size}")
    if nic.tx_queue_size:
        words.append(f"tx_queue_size={nic.tx_queue_size}")
    if nic.packed:
        words.append("packed=on")
    return ",".join([*words, *nic.options])


def _vectors(nic: Nic, machine: Machine) -> int:
    """Count MSI-X vectors: one per virtqueue, one for the control queue, one for configuration changes.

    None under TCG before version TCG_VECTORS: QEMU 7.2 there crashes as soon as the guest of a vhost-user device
    enables MSI-X (vhost_net_start meets vectors without an irqfd); the device then uses its INTx pin.
    """
    crashes = machine.accel == "tcg" and not _is_since(TCG_VECTORS, machine)
    return 0 if crashes else 2 * nic.queue_pairs + 2


def _escaped(value: str) -> str:
    """Write a value in QEMU's option syntax, where a comma is doubled."""
    return value.replace(",", ",,")
