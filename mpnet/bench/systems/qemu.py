"""QEMU's own virtio-net device on a TAP, vhost=off, with the embedded driver at its rings.

The machine has no program: its processor halts at once. Its memory is the driver's own, shared; the device is
set up over the qtest socket, and a kick is a qtest command that the driver's compiled loop writes itself. Calls
are masked: the driver polls.
"""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from mpnet.bench.bed import GUEST_MAC, Bed, Wire
from mpnet.bench.case import RING_SIZE, Case
from mpnet.bench.child import Child, absent, child, said
from mpnet.bench.system import Device
from mpnet.bench.systems.driven import Driven, memory_bytes
from mpnet.bench.systems.qtest import Qtest
from mpnet.bench.systems.virtio_pci import VirtioPci
from mpnet.errors import MpnetError
from mpnet.guest import debian
from mpnet.guest.control_queue import ControlQueue
from mpnet.guest.driver import QueuePair
from mpnet.guest.linux.qemu import TapNic
from mpnet.guest.memory import GuestMemory
from mpnet.guest.queue import Queue
from mpnet.virtio.control_queue import ACK_OK, set_pairs
from mpnet.virtio.features import Feature, mask

_PROGRAM = "qemu-system-x86_64"
_SLOT = 4
_CONTROL_RING_SIZE = 64
"""The most that the device has there."""
_LOW_BYTES = 1 << 20
"""The first mebibyte of a PC has holes."""
_BIOS_BYTES = 1 << 16
_HALT = b"\xfa\xf4\xeb\xfd"
"""cli; hlt; jmp back: at the reset vector, 16 bytes before the end."""
_DRAIN_SECONDS = 0.002


class Qemu(Driven):
    """QEMU's device."""

    name = "qemu"

    def absent(self) -> str:
        """The program's package, where it is missing."""
        return absent(_PROGRAM)

    def version(self) -> str:
        """As the program says."""
        return said(debian.program(_PROGRAM), "--version")

    def serves(self, case: Case) -> bool:
        """All but what takes a kick as long as a guest's, or several queues."""
        return case.kind in {"tx", "rx"} or case.in_linux

    @contextmanager
    def nic(self, bed: Bed, case: Case) -> Iterator[tuple[Wire, TapNic]]:
        """A TAP for the device of a guest's QEMU."""
        with bed.tap("qemu0", queues=case.queue_pairs) as wire:
            yield wire, TapNic(interface=wire.name, mac=GUEST_MAC.hex(":"), queue_pairs=case.queue_pairs)

    @contextmanager
    def device(self, bed: Bed, case: Case) -> Iterator[Device]:
        """Start the machine, set the device up and attach the driver."""
        pairs = case.queue_pairs
        wanted = case.features | (mask(Feature.MQ, Feature.CTRL_VQ) if pairs > 1 else 0)
        with (
            bed.tap("qemu0", queues=pairs) as wire,
            GuestMemory((memory_bytes(case),), "memfd", base=0) as memory,
        ):
            memory.allocate(_LOW_BYTES)
            with _machine(bed, wire, memory, pairs) as (program, qtest):
                card = VirtioPci(qtest, _SLOT)
                features = card.negotiate(wanted)
                # The control queue comes after all pairs (VIRTIO 1.3, 5.1.2).
                sizes = [RING_SIZE] * 2 * pairs + [_CONTROL_RING_SIZE] * (pairs > 1)
                queues = [
                    Queue(memory, index, size, features=features, polled=True) for index, size in enumerate(sizes)
                ]
                places = [card.start_queue(queue.ring.index, queue.ring.size, queue.guest) for queue in queues]
                card.start()
                with _kicks(qtest.socket, queues, places):
                    if pairs > 1:
                        _use(ControlQueue(queues[-1]), pairs)
                    found = [QueuePair(queues[2 * n], queues[2 * n + 1], features) for n in range(pairs)]
                    yield Device(wire, found, lambda: [program.process.pid])


def _use(control: ControlQueue, pairs: int) -> None:
    """Have the device use more than its first queue pair."""
    command = set_pairs(pairs)
    if control.command(command.group, command.number, command.data) != ACK_OK:
        raise MpnetError(f"QEMU's device does not use {pairs} queue pairs")


@contextmanager
def _machine(bed: Bed, wire: Wire, memory: GuestMemory, pairs: int) -> Iterator[tuple[Child, Qtest]]:
    size = memory.regions[0].size
    queues = f",queues={pairs}" if pairs > 1 else ""
    bios, path = bed.path("halt.bin"), bed.path("qtest.sock")
    bios.write_bytes(bytes(_BIOS_BYTES - 16) + _HALT.ljust(16, b"\0"))
    command = [
        str(debian.program(_PROGRAM)),
        *("-nodefaults", "-display", "none", "-accel", "tcg", "-bios", str(bios), "-m", f"{size}B"),
        *("-machine", "pc,memory-backend=mem"),
        "-object",
        f"memory-backend-file,id=mem,size={size},mem-path=/proc/self/fd/{memory.fd},share=on",
        *("-netdev", f"tap,id=net,ifname={wire.name},script=no,downscript=no,vhost=off{queues}"),
        "-device",
        f"virtio-net-pci,netdev=net,mac={GUEST_MAC.hex(':')},addr={_SLOT},disable-legacy=on,romfile=,vectors=0,"
        f"packed=on,mq={'on' if pairs > 1 else 'off'}",
        *("-qtest", f"unix:{path},server=on,wait=off", "-qtest-log", "none"),
    ]
    with child(command, bed.path("qemu.log"), {bed.device_cpu}, fds=[memory.fd]) as program:
        try:
            qtest = Qtest(str(path))
        except MpnetError as error:
            program.check()
            raise MpnetError(error.problem, program.log_end()) from error
        with qtest:
            yield program, qtest


@contextmanager
def _kicks(sock: socket.socket, queues: list[Queue], places: list[int]) -> Iterator[None]:
    """Let the driver's kicks be qtest commands; a thread takes the answers off the socket."""
    sock.settimeout(None)
    commands = []
    for queue, place in zip(queues, places, strict=True):
        text = np.frombuffer(f"writew {place:#x} {queue.ring.index:#x}\n".encode(), np.uint8)
        commands.append(text)
        state = queue.virtqueue.state[0]
        state.kick_fd, state.one, state.one_bytes = sock.fileno(), text.ctypes.data, len(text)
    ended = threading.Event()
    thread = threading.Thread(target=_drain, args=(sock, ended))
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        for queue in queues:
            queue.virtqueue.state[0].kick_fd = -1


def _drain(sock: socket.socket, ended: threading.Event) -> None:
    """Take answers off until told to end: QEMU would wait with a full socket."""
    os.set_blocking(sock.fileno(), True)
    while not ended.wait(_DRAIN_SECONDS):
        try:
            if not sock.recv(1 << 16, socket.MSG_DONTWAIT):
                return
        except BlockingIOError:
            continue
