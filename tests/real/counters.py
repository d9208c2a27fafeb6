"""What a device, its guest and its TAP have counted, in one shape, so that the three can be compared."""

from collections.abc import Callable
from typing import NamedTuple

from pyroute2 import IPRoute

from mpnet.guest.linux.guest import LinuxGuest
from tests.real.linux_guest import ethtool_statistics
from tests.real.running import Running


class Count(NamedTuple):
    """Frames and their bytes, without the virtio-net header; a frame of segmentation offload is one."""

    packets: int
    bytes: int


Queues = dict[tuple[str, int], Count]
"""Counts by direction, "rx" or "tx" as the guest sees it, and queue pair."""


def of_device(running: Running, queue_pairs: int) -> Queues:
    """What ``/metrics`` says."""
    metrics = running.metrics()

    def value(direction: str, queue: int, unit: str) -> float:
        labels = (("device", "net0"), ("queue", str(queue)))
        return metrics[f"mpnet_queue_{direction}_{unit}_total", labels]

    return _queues(queue_pairs, value)


def of_guest(guest: LinuxGuest, queue_pairs: int) -> Queues:
    """What ``ethtool -S`` says."""
    said = ethtool_statistics(guest)
    return _queues(queue_pairs, lambda direction, queue, unit: said[f"{direction}_queue_{queue}_{unit}"])


def of_tap(name: str) -> dict[str, Count]:
    """What the TAP's statistics say, by direction as the guest sees it: the other way round."""
    statistics = link_statistics(name)
    return {
        "rx": Count(statistics["tx_packets"], statistics["tx_bytes"]),
        "tx": Count(statistics["rx_packets"], statistics["rx_bytes"]),
    }


def link_statistics(name: str) -> dict[str, int]:
    """All 64-bit statistics of an interface of this network namespace."""
    with IPRoute() as ip:
        statistics: dict[str, int] = ip.link("get", ifname=name)[0].get_attr("IFLA_STATS64")
    return statistics


def on_the_wire(running: Running, queues: Queues) -> dict[str, Count]:
    """The sums of what a device has counted, as the TAP counts it: frames that went together are one there."""
    counts = totals(queues)
    for direction, way in (("rx", "segmented"), ("tx", "coalesced")):
        pieces, wholes, saved = (
            int(running.metric(f"mpnet_queue_{direction}_{way}_{unit}_total"))
            for unit in ("packets", "frames", "saved_bytes")
        )
        packets, octets = counts[direction]
        counts[direction] = Count(packets - pieces + wholes, octets - saved)
    return counts


def totals(queues: Queues) -> dict[str, Count]:
    """The sums over all queue pairs, by direction."""

    def total(direction: str) -> Count:
        counts = [count for (of, _), count in queues.items() if of == direction]
        return Count(sum(count.packets for count in counts), sum(count.bytes for count in counts))

    return {direction: total(direction) for direction in ("rx", "tx")}


def dropped(running: Running) -> float:
    """Frames the device has dropped, in either direction, for whatever reason."""
    return sum(running.metric(f"mpnet_queue_{direction}_drops_total") for direction in ("rx", "tx"))


def _queues(queue_pairs: int, value: Callable[[str, int, str], float]) -> Queues:
    return {
        (direction, queue): Count(*(int(value(direction, queue, unit)) for unit in Count._fields))
        for direction in ("rx", "tx")
        for queue in range(queue_pairs)
    }
