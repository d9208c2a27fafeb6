"""The factors of an experiment: everything about a trial that a sweep can vary."""

import math
import re
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from mpnet.config.cpus import parse_cpus
from mpnet.config.device import MAX_MTU, MAX_QUEUE_PAIRS, MIN_MTU
from mpnet.config.place import FieldError
from mpnet.experiment.possible import DEVICE_OPTIONS, ETHERNET_BYTES, MAX_FRAME, MIN_FRAME, check, key
from mpnet.virtio.features import Feature, mask

MAX_FLOWS = 4096
DEFAULT_FLOWS = 64
_WORD = re.compile(r"([+-])([a-z0-9_]+)", re.ASCII)
BASE = mask(
    Feature.VERSION_1,
    Feature.MAC,
    Feature.MRG_RXBUF,
    Feature.RING_INDIRECT_DESC,
    Feature.RING_EVENT_IDX,
    Feature.CSUM,
    Feature.GUEST_CSUM,
)
"""What the embedded driver asks for whatever is measured; a device without a TAP may offer less."""


class Factors(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """One trial's settings; in sweeps the names have dashes.

    Attributes:
        case: one of the bench's, which brings all with it but the system; empty for none.
        system: whose device: mpnet's, QEMU's own or DPDK's; ``limit`` is none, and goes with a case.
        driver: who drives it: mpnet's own driver, DPDK's (``testpmd``), or a stock Linux guest (``qemu``).
        direction: as the guest sees it; ``rtt`` is one ping under way at a time, of the host's kernel.
        queue_pairs: of the device, all of them in use.
        workers: processes that share the pairs; 0 for one a pair.
        cpus: processors for the device's workers, as ``0-1``; ``any`` leaves them to the scheduler; empty gives
            them the half of the processors that the driver does not use.
        ring_size: descriptors of each ring.
        ring: the rings' format.
        features: virtio features to add to what the driver asks for, and to leave out, as ``+host_uso -csum``.
        gro: the device coalesces frames on their way to the TAP.
        gso: the device segments frames for a guest or TAP without the offload.
        poll_us: microseconds for which the device polls before it sleeps.
        engine: how the device writes to the TAP.
        backend: what is behind the rings: a TAP; ``null``, which takes every frame (tx); ``echo`` (both).
        frame_bytes: of a frame, Ethernet header included; of one segment where there are several.
        flows: in all, dealt out to the queue pairs; a pair without a flow sends nothing.
        flows_per_pair: on each queue pair, in place of ``flows``; 0: as ``flows`` says. What a flow meets in its
            ring, as coalescing, is then the same for any number of pairs.
        protocol: of the frames.
        segments: above 1, of each segmentation offload.
        mtu: of device and TAP.
        polled: the driver polls, and wants no calls; rtt only.
        gap_us: microseconds between an answer and the next ping; rtt only.

    Raises:
        FieldError: a value out of range; ``ImpossibleError``: values that do not go together.
    """

    case: str = ""
    system: Literal["mpnet", "limit", "qemu", "dpdk"] = "mpnet"
    driver: Literal["embedded", "testpmd", "qemu"] = "embedded"
    direction: Literal["tx", "rx", "both", "rtt"] = "tx"
    queue_pairs: int = 1
    workers: int = 0
    cpus: str = ""
    ring_size: int = 256
    ring: Literal["split", "packed"] = "split"
    features: str = ""
    gro: bool | None = None
    gso: bool | None = None
    poll_us: int | None = None
    engine: str | None = None
    backend: str | None = None
    frame_bytes: int = 64
    flows: int = DEFAULT_FLOWS
    flows_per_pair: int = 0
    protocol: Literal["udp", "tcp"] = "udp"
    segments: int = 1
    mtu: int = 1500
    polled: bool = False
    gap_us: int = 0

    def __post_init__(self) -> None:
        _check_range("queue_pairs", self.queue_pairs, 1, MAX_QUEUE_PAIRS)
        _check_range("workers", self.workers, 0, MAX_QUEUE_PAIRS)
        _check_range("ring_size", self.ring_size, 2, 32768)
        _check_range("flows", self.flows, 1, MAX_FLOWS)
        _check_range("flows_per_pair", self.flows_per_pair, 0, MAX_FLOWS)
        _check_range("mtu", self.mtu, MIN_MTU, MAX_MTU)
        _check_range("frame_bytes", self.frame_bytes, min(MIN_FRAME.values()), MAX_MTU + ETHERNET_BYTES)
        _check_range("segments", self.segments, 1, MAX_FRAME)
        _check_range("gap_us", self.gap_us, 0, 1_000_000)
        self.feature_bits()
        self.pinned()
        check(self)

    def feature_bits(self) -> int:
        """Virtio features the driver asks for.

        Raises:
            FieldError: ``features`` has a word that is none.
        """
        bits = BASE
        if self.ring == "packed":
            bits |= mask(Feature.RING_PACKED)
        if self.queue_pairs > 1:
            bits |= mask(Feature.MQ)
        if self.segments > 1 and self.protocol == "tcp":
            bits |= mask(Feature.HOST_TSO4, Feature.GUEST_TSO4)
        elif self.segments > 1:
            # A driver takes UDP superframes whole only with both families: so does Linux, and so does the TAP.
            bits |= mask(Feature.HOST_USO, Feature.GUEST_USO4, Feature.GUEST_USO6)
        for word in self.features.split():
            match = _WORD.fullmatch(word)
            if match is None or match[2].upper() not in Feature.__members__:
                raise FieldError(
                    "features", f"features has {word!r}, expected words as +host_uso or -ring_event_idx"
                )
            feature = mask(Feature[match[2].upper()])
            bits = bits | feature if match[1] == "+" else bits & ~feature
        return bits

    def all_flows(self) -> int:
        """Flows on all queue pairs together."""
        return self.flows_per_pair * self.queue_pairs or self.flows

    def pinned(self) -> tuple[int, ...] | None:
        """Processors that were asked for; None where none were, whether left to the scheduler or to us."""
        return parse_cpus(self.cpus) if self.cpus not in {"", "any"} else None

    def words(self) -> str:
        """Options of a device but for what is behind it, as in a device string; a comma before each."""
        options = (field for field in DEVICE_OPTIONS if field != "backend")
        given = {field: getattr(self, field) for field in options if getattr(self, field) is not None}
        if self.workers:
            given["workers"] = self.workers
        return "".join(f",{key(field)}={_word(value)}" for field, value in given.items())


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def _check_range(field: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise FieldError(field, f"{key(field)} is {value}, expected {low} to {high}")


def plain(factors: Factors) -> dict[str, Any]:
    """Factors by the key that users write, as JSON has them."""
    given: dict[str, Any] = msgspec.to_builtins(factors)
    return given


def varied(each: Sequence[dict[str, Any]]) -> list[str]:
    """Keys that have more than one level among some trials' factors, in the order of the first trial's."""
    return [key for key in each[0] if len({repr(one.get(key)) for one in each}) > 1] if each else []


def label(level: Any) -> str:
    """A level as people read it."""
    if isinstance(level, bool):
        return "on" if level else "off"
    if level is None:
        return "default"
    if isinstance(level, float) and not math.isnan(level) and level == int(level):
        return str(int(level))
    return str(level) or "default"
