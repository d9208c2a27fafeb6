"""The cases: what work is done, and what of it is measured."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from mpnet.bench.bed import GUEST_MAC, NOWHERE, QUEUE_LENGTH, Wire
from mpnet.guest.stream import Stream
from mpnet.virtio.features import Feature, mask

Kind = Literal["tx", "rx", "rtt", "scale", "idle", "ring", "virtio-user", "guest-rtt", "guest-tcp"]
"""``ring``: no TAP, the embedded driver; ``virtio-user``: likewise, DPDK's driver.
``rtt``: the guest pings the host's kernel; ``scale``: tx on one queue pair, then on two; ``guest-…``: a stock
Linux guest instead of the embedded driver."""
RINGS_ALONE = ("ring", "virtio-user")
"""Kinds for which there is no TAP."""
RING_SIZE = 256
"""Descriptors of each ring, of all systems: the most QEMU gives a tx queue on a TAP."""
_BASE = mask(
    Feature.VERSION_1, Feature.MAC, Feature.MRG_RXBUF, Feature.RING_INDIRECT_DESC, Feature.RING_EVENT_IDX
)
_CSUM = mask(Feature.CSUM, Feature.GUEST_CSUM)
_TSO = _CSUM | mask(Feature.HOST_TSO4, Feature.GUEST_TSO4)
_USO = _CSUM | mask(Feature.HOST_USO, Feature.GUEST_USO4, Feature.GUEST_USO6)
_FULL_FRAME = 1514
_TSO_SEGMENTS = 44
"""Segments of 1460 bytes: 64,240 in one frame, the most that fits 64 KiB."""
_USO_SEGMENTS = 44
"""Datagrams of 1472 bytes, likewise."""
_BACKLOG = QUEUE_LENGTH // 2
"""Segments: a TAP that takes no offloaded frames queues each for itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One figure of a case.

    Args:
        name: behind the case's own, or empty.
        measure: what experiments call it.
        unit: of its samples.
        lower: less is better.
    """

    name: str = ""
    measure: str
    unit: str
    lower: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One kind of work.

    Args:
        name: as people type it.
        kind: who sends what to whom; rx and tx are the guest's.
        figures: what is measured.
        features: virtio features the driver asks for.
        frame_bytes: of each frame, Ethernet header included, of one segment.
        flows: interleaved frame by frame.
        segments: above 1, of each segmentation offload.
        tcp: TCP instead of UDP.
        coalesced: frames of one flow that a device may write to the TAP as one; the limit does.
        queue_pairs: of the device, each with a worker of its own.
        polled: the driver polls, and wants no calls; the device polls too where it can.
        echo: of a ring: frames come back.
        about: a line for people.
    """

    name: str
    kind: Kind
    figures: tuple[Figure, ...]
    about: str
    features: int = _BASE | _CSUM
    frame_bytes: int = 64
    flows: int = 1
    segments: int = 1
    tcp: bool = False
    coalesced: int = 1
    queue_pairs: int = 1
    polled: bool = False
    echo: bool = False

    @property
    def in_linux(self) -> bool:
        """Whether a stock Linux guest does the work."""
        return self.kind.startswith("guest-")

    @property
    def backlog(self) -> int:
        """Of rx: frames that are put into the TAP's queue before the device's time is taken."""
        return _BACKLOG // self.segments

    def stream(self, wire: Wire) -> Stream:
        """The frames: from the guest to nowhere for tx, from nowhere to the guest for rx."""
        away = self.kind != "rx"
        return Stream(
            source_mac=GUEST_MAC if away else wire.mac,
            target_mac=wire.mac if away else GUEST_MAC,
            source=wire.guest if away else wire.host,
            target=NOWHERE if away else wire.guest,
            flows=self.flows,
            frame_bytes=self.frame_bytes,
            segments=self.segments,
            tcp=self.tcp,
        )


_PPS = (Figure(measure="pps", unit="pps"),)
_GBPS = (Figure(measure="gbps", unit="Gbps"),)
_RTT = tuple(
    Figure(name=name, measure=f"rtt_{name}_us", unit="us", lower=True) for name in ("p50", "p99", "p99.9")
)

_RING = (*_PPS, Figure(name="cost", measure="cpu_ns_per_packet", unit="ns/packet", lower=True))
_WAYS = {"tx": "consumed by the device", "echo": "sent back by the device"}
_DRIVERS: tuple[tuple[Kind, str, str], ...] = (
    ("ring", "", "the embedded driver"),
    ("virtio-user", "-virtio-user", "DPDK's driver"),
)


def _rings(size: int) -> Iterator[Case]:
    """Frames of ``size`` bytes with each driver, both ways and in both formats of rings."""
    for kind, suffix, driver in _DRIVERS:
        for way, about in _WAYS.items():
            for name, feature in (("split", 0), ("packed", mask(Feature.RING_PACKED))):
                yield Case(
                    name=f"ring-{size}-{way}-{name}{suffix}",
                    kind=kind,
                    figures=_RING,
                    features=_BASE | _CSUM | feature,
                    frame_bytes=size,
                    echo=way == "echo",
                    about=f"{size} B frames of {driver}, {about} with no TAP, {name} rings",
                )


_TSO_FRAMES = Case(
    name="tx-tso",
    kind="tx",
    figures=_GBPS,
    features=_BASE | _TSO,
    frame_bytes=_FULL_FRAME,
    flows=4,
    segments=_TSO_SEGMENTS,
    tcp=True,
    about="TSO frames of 64 KiB, 4 flows, from the guest",
)
_UDP_SUPERFRAMES = Case(
    name="rx-udp-stream",
    kind="rx",
    figures=_PPS,
    frame_bytes=_FULL_FRAME,
    flows=4,
    segments=_USO_SEGMENTS,
    about="UDP datagrams of 1514 B, 4 flows, given to the kernel 44 at a time, to a guest without USO",
)

_ALL = (
    Case(
        name="tx-64-flows",
        kind="tx",
        figures=_PPS,
        flows=1024,
        about="UDP frames of 64 B, 1024 interleaved flows, from the guest; dropped once routed",
    ),
    Case(
        name="tx-udp-stream",
        kind="tx",
        figures=_PPS,
        frame_bytes=_FULL_FRAME,
        flows=4,
        coalesced=44,
        about="UDP datagrams of 1514 B, 4 flows, from a guest without USO",
    ),
    Case(
        name="tx-tcp-stream",
        kind="tx",
        figures=_PPS,
        frame_bytes=_FULL_FRAME,
        flows=4,
        tcp=True,
        coalesced=_TSO_SEGMENTS,
        about="TCP segments of 1514 B, 4 flows, from a guest without TSO",
    ),
    _TSO_FRAMES,
    Case(
        name="rx-64-flows",
        kind="rx",
        figures=_PPS,
        flows=1024,
        about="UDP frames of 64 B, 1024 interleaved flows, to the guest",
    ),
    _UDP_SUPERFRAMES,
    replace(
        _UDP_SUPERFRAMES,
        name="rx-udp-stream-uso",
        features=_BASE | _USO,
        about="the same to a guest with USO",
    ),
    replace(_TSO_FRAMES, name="rx-tso", kind="rx", about="TSO frames of 64 KiB, 4 flows, to the guest"),
    Case(
        name="rtt-interrupt",
        kind="rtt",
        figures=_RTT,
        about="ping of the host's kernel; driver and device sleep until they are notified",
    ),
    Case(
        name="rtt-polling",
        kind="rtt",
        figures=_RTT,
        polled=True,
        about="ping of the host's kernel; the driver polls",
    ),
    *_rings(64),
    *_rings(1500),
    Case(
        name="guest-rtt",
        kind="guest-rtt",
        figures=_RTT,
        polled=True,
        about="ping of the host's kernel by a stock Linux guest in QEMU; the device polls where it can",
    ),
    Case(
        name="guest-tcp",
        kind="guest-tcp",
        figures=(
            Figure(name="tx", measure="tx_goodput_gbps", unit="Gbps"),
            Figure(name="rx", measure="rx_goodput_gbps", unit="Gbps"),
        ),
        about="one TCP stream of iperf3 from and to a stock Linux guest in QEMU",
    ),
    Case(
        name="scale",
        kind="scale",
        figures=(
            Figure(name="one-worker", measure="one_worker_pps", unit="pps"),
            Figure(name="two-workers", measure="two_workers_pps", unit="pps"),
            Figure(name="one-worker-cost", measure="one_worker_ns_per_packet", unit="ns/packet", lower=True),
            Figure(name="two-workers-cost", measure="two_workers_ns_per_packet", unit="ns/packet", lower=True),
        ),
        flows=512,
        queue_pairs=2,
        about="UDP frames of 64 B from one queue pair, then from two; processor time of the workers",
    ),
    Case(
        name="idle",
        kind="idle",
        figures=(
            Figure(name="cpu", measure="idle_percent", unit="% of a core", lower=True),
            Figure(name="memory", measure="worker_mib", unit="MiB/worker", lower=True),
            Figure(name="recovery", measure="recovery_ms", unit="ms", lower=True),
        ),
        queue_pairs=64,
        about="64 queue pairs without traffic: processor time, private memory, SIGKILL of a worker to service",
    ),
)
CASES = {case.name: case for case in _ALL}
"""In the order they are run."""


def chosen(names: Collection[str]) -> list[Case]:
    """Cases by their names, and by what several names begin with, as "rtt" or "ring-64-echo"; all for none."""
    return [case for case in _ALL if not names or any(name in _names(case) for name in names)]


def _names(case: Case) -> list[str]:
    words = case.name.split("-")
    beginnings = ["-".join(words[:count]) for count in range(1, len(words))]
    return [case.name, *(name for name in beginnings if name not in CASES)]


NAMES = tuple(dict.fromkeys((*CASES, *(name for case in _ALL for name in _names(case)))))
"""What people may ask for: cases and groups of them."""
