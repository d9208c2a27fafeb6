"""Which levels go together: what a driver cannot do, a system does not have, or a case brings along."""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from mpnet.config.device import BACKENDS, ECHO, NULL, TAP, DeviceConfig
from mpnet.config.place import FieldError
from mpnet.virtio.features import Feature

if TYPE_CHECKING:
    from mpnet.experiment.factors import Factors

DEVICE_OPTIONS = ("gro", "gso", "poll_us", "engine", "backend")
"""Factors that are options of mpnet's device, word for word; None leaves the device its own default."""
ETHERNET_BYTES = 14
MAX_FRAME = 65535
HEADERS = {"udp": 42, "tcp": 54}
MIN_FRAME = {"udp": 60, "tcp": 68}
STREAMS = 128
"""The most that one iperf3 makes at a time."""
_TESTPMD_FRAME = 1514
_TESTPMD_WORDS = {"+mrg_rxbuf", "-mrg_rxbuf"}
_SYSTEMS: dict[str, dict[str, Collection[Any]]] = {
    "mpnet": {},
    "limit": {"case": ()},
    "qemu": {"workers": (0,), "ring_size": (256,), "mtu": (1500,)},
    # net_tap, which is its way to the host, has 16 queues and no segmentation offload.
    "dpdk": {
        "workers": (0,), "ring_size": (256,), "mtu": (1500,), "segments": (1,), "queue_pairs": range(1, 17),
    },
}  # fmt: skip
"""Levels that a system has, where it does not have all."""
_DRIVERS: dict[str, dict[str, Collection[Any]]] = {
    "embedded": {},
    "testpmd": {
        "system": ("mpnet", "dpdk"), "direction": ("tx", "rx", "both"), "protocol": ("udp",), "segments": (1,),
        "ring_size": tuple(1 << power for power in range(6, 13)),
    },
    "qemu": {
        "system": ("mpnet", "qemu"), "backend": (None, TAP), "segments": (1,), "polled": (False,), "gap_us": (0,),
        "ring_size": (256, 512, 1024),
    },
}  # fmt: skip
"""Levels that go with a driver, likewise."""
_QEMU_NAMES = {Feature.RING_INDIRECT_DESC: "indirect_desc", Feature.RING_EVENT_IDX: "event_idx"}
_QEMU_FEATURES = (
    Feature.CSUM, Feature.GUEST_CSUM, Feature.GUEST_TSO4, Feature.GUEST_TSO6, Feature.GUEST_ECN,
    Feature.GUEST_UFO, Feature.HOST_TSO4, Feature.HOST_TSO6, Feature.HOST_ECN, Feature.HOST_UFO,
    Feature.GUEST_USO4, Feature.GUEST_USO6, Feature.HOST_USO, Feature.MRG_RXBUF, *_QEMU_NAMES,
)  # fmt: skip
QEMU_PROPERTIES = {
    feature.name.lower(): _QEMU_NAMES.get(feature, feature.name.lower()) for feature in _QEMU_FEATURES
}
"""Features that QEMU lets a guest's device have or not, by our name for them."""


class ImpossibleError(FieldError):
    """Levels of which each is sound, but that do not go together."""


def key(field: str) -> str:
    """A field as users write it."""
    return field.replace("_", "-")


def check(factors: "Factors") -> None:
    """Make sure that a trial can be.

    Raises:
        FieldError: a device's option is none; ``ImpossibleError``: levels that do not go together.
    """
    if factors.case:
        _check_case(factors)
        return
    _check_levels(factors, _SYSTEMS[factors.system], f"system {factors.system}")
    _check_levels(factors, _DRIVERS[factors.driver], f"driver {factors.driver}")
    _check_options(factors)
    _check_rings(factors)
    _check_frames(factors)
    if factors.driver == "testpmd":
        _check_testpmd(factors)
    elif factors.driver == "qemu":
        _check_guest(factors)
    elif factors.system == "qemu" and factors.direction == "rtt":
        # The embedded driver kicks it over a socket, which takes longer than a guest's kick.
        raise ImpossibleError("direction", "round trips of QEMU's device are a guest's", "driver = 'qemu'")


def _check_levels(factors: "Factors", allowed: Mapping[str, Collection[Any]], what: str) -> None:
    for field, levels in allowed.items():
        value = getattr(factors, field)
        if value in levels:
            continue
        if field == "case":
            raise ImpossibleError("system", f"{what} runs cases of the bench alone", "add case = '…'")
        known = [str(level) for level in levels if level is not None]
        some = f"{known[0]} to {known[-1]}" if isinstance(levels, range) else ", ".join(known)
        shown = str(value).lower() if isinstance(value, bool) else value
        raise ImpossibleError(field, f"{key(field)} is {shown}, but {what} runs with {some}")


def _check_case(factors: "Factors") -> None:
    from mpnet.bench.case import CASES  # noqa: PLC0415 - half a second that other sweeps need not wait
    from mpnet.bench.systems.registry import SYSTEMS  # noqa: PLC0415 - likewise

    case = CASES.get(factors.case)
    if case is None:
        raise FieldError("case", f"case is {factors.case!r}, expected one of {', '.join(CASES)}")
    for field in msgspec.structs.fields(type(factors)):
        if field.name not in {"case", "system"} and getattr(factors, field.name) != field.default:
            raise ImpossibleError(
                field.name, f"{key(field.name)} is given, but a case of the bench brings all with it but system"
            )
    if not SYSTEMS[factors.system].serves(case):
        raise ImpossibleError("system", f"system {factors.system} cannot do the work of case {case.name}")


def _check_options(factors: "Factors") -> None:
    given = {field: getattr(factors, field) for field in DEVICE_OPTIONS if getattr(factors, field) is not None}
    for field in given:
        if factors.system != "mpnet" and (field, factors.system) != ("backend", "dpdk"):
            raise ImpossibleError(
                field, f"{key(field)} is an option of mpnet's devices, not of {factors.system}'s"
            )
    for field, value in given.items():
        if field != "backend":
            _on_a_tap(**{field: value})
    if factors.backend not in {None, *BACKENDS}:
        raise FieldError("backend", f"backend is {factors.backend!r}, expected one of {', '.join(BACKENDS)}")
    if factors.backend in {NULL, ECHO}:
        _check_without_tap(factors)


def _on_a_tap(**options: Any) -> None:
    """Have mpnet's own rules judge a device's option. Raises ``FieldError``."""
    DeviceConfig(id="trial", tap="tap0", socket="socket", **options)


def _check_without_tap(factors: "Factors") -> None:
    way = "tx" if factors.backend == NULL else "both"
    if factors.direction != way:
        raise ImpossibleError("backend", f"backend is {factors.backend}, which goes with direction {way} alone")
    for field in ("gro", "gso", "engine"):
        if getattr(factors, field) not in {None, False, "auto"}:
            raise ImpossibleError(field, f"{field} is for a TAP, and backend {factors.backend} has none")


def _check_rings(factors: "Factors") -> None:
    if factors.flows_per_pair and factors.flows != type(factors)().flows:
        raise ImpossibleError("flows_per_pair", "flows-per-pair and flows are both given", "leave one out")
    if factors.workers > factors.queue_pairs:
        raise ImpossibleError(
            "workers",
            f"workers is {factors.workers}, expected {factors.queue_pairs} at most, as there are queue-pairs",
        )
    if factors.ring == "split" and factors.ring_size & (factors.ring_size - 1):
        raise ImpossibleError(
            "ring_size",
            f"ring-size is {factors.ring_size}, but a split ring has a power of two",
            "or ring=packed",
        )
    if factors.direction != "rtt" and (factors.gap_us or factors.polled):
        field = "gap_us" if factors.gap_us else "polled"
        raise ImpossibleError(field, f"{key(field)} goes with direction rtt, not with {factors.direction}")


def _check_frames(factors: "Factors") -> None:
    headers, least = HEADERS[factors.protocol], MIN_FRAME[factors.protocol]
    longest = factors.mtu + ETHERNET_BYTES
    if not least <= factors.frame_bytes <= longest:
        raise ImpossibleError(
            "frame_bytes",
            f"frame-bytes is {factors.frame_bytes}, expected {least} to {longest} by protocol and mtu",
        )
    most = (MAX_FRAME - headers) // (factors.frame_bytes - headers)
    if factors.segments > most:
        raise ImpossibleError(
            "segments", f"segments is {factors.segments}, but {most} such frames fill the longest offload"
        )


def _check_testpmd(factors: "Factors") -> None:
    if factors.frame_bytes > _TESTPMD_FRAME:
        raise ImpossibleError(
            "frame_bytes",
            f"frame-bytes is {factors.frame_bytes}, but driver testpmd sends {_TESTPMD_FRAME} at most",
        )
    if factors.direction != "rx" and factors.all_flows() < factors.queue_pairs:
        raise ImpossibleError(
            "flows",
            f"flows is {factors.flows}, but driver testpmd sends on each of {factors.queue_pairs} queue pairs",
            f"flows = {factors.queue_pairs}, or more",
        )
    if others := set(factors.features.split()) - _TESTPMD_WORDS:
        raise ImpossibleError(
            "features",
            f"features has {min(others)!r}, but driver testpmd lets choose mrg_rxbuf alone",
        )


def _check_guest(factors: "Factors") -> None:
    if factors.all_flows() > STREAMS * factors.queue_pairs:
        raise ImpossibleError(
            "flows",
            f"{factors.all_flows()} flows are asked for, but iperf3 makes {STREAMS} streams a queue pair",
        )
    full = factors.mtu + ETHERNET_BYTES
    if factors.protocol == "tcp" and factors.direction != "rtt" and factors.frame_bytes != full:
        raise ImpossibleError(
            "frame_bytes",
            f"frame-bytes is {factors.frame_bytes}, but the TCP of a Linux guest fills its frames",
            f"frame-bytes = {full}",
        )
    for word in factors.features.split():
        if word[1:] not in QEMU_PROPERTIES:
            raise ImpossibleError(
                "features",
                f"features has {word!r}, but QEMU gives a guest a choice of {', '.join(QEMU_PROPERTIES)}",
            )
