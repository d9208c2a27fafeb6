"""A stock Linux guest as the driver: iperf3 on every queue pair, or single pings. Its tools do the counting."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from mpnet.bench.bed import Bed, Wire
from mpnet.bench.linux import booted, iperf3, round_trips
from mpnet.experiment.factors import Factors
from mpnet.experiment.latency import trip_figures
from mpnet.experiment.possible import HEADERS, QEMU_PROPERTIES
from mpnet.experiment.work import Done, Work
from mpnet.guest.linux.guest import LinuxGuest
from mpnet.guest.linux.qemu import TapNic, VhostUserNic


class Pings:
    """One ping of the host under way at a time."""

    def __init__(self, guest: LinuxGuest, wire: Wire) -> None:
        self._guest = guest
        self._wire = wire

    def run(self, seconds: float) -> Done:
        """Ping for so long, in whole seconds.

        Raises:
            MpnetError: hardly any was answered.
        """
        started = time.monotonic()
        times = round_trips(self._guest, self._wire, seconds)
        return Done(time.monotonic() - started, 2 * len(times), None, trip_figures(times))


class Streams:
    """A client of iperf3 for each queue pair and way, all at once; each has its share of the flows."""

    def __init__(self, guest: LinuxGuest, bed: Bed, wire: Wire, factors: Factors) -> None:
        self._guest = guest
        self._bed = bed
        self._wire = wire
        self._factors = factors

    def run(self, seconds: float) -> Done:
        """Send for so long, in whole seconds.

        Raises:
            MpnetError: a client failed.
        """
        factors, whole = self._factors, max(1, round(seconds))
        ways = ("tx", "rx") if factors.direction == "both" else (factors.direction,)
        clients = [(cpu, way, words) for way in ways for cpu, words in self._clients(way, whole)]
        started = time.monotonic()
        ends = iperf3(self._guest, self._bed, self._wire, [(cpu, words) for cpu, _, words in clients], whole)
        took = time.monotonic() - started
        each = [(way, end) for (_, way, _), end in zip(clients, ends, strict=True)]
        if factors.protocol == "tcp":
            return Done(took, 0, None, _goodput(each))
        found = _datagrams(each, factors.frame_bytes)
        return Done(took, found["pps"] * whole, None, found)

    def _clients(self, way: str, seconds: int) -> Iterator[tuple[int, str]]:
        """Options of each client, and the processor, hence the tx queue, that it is to have."""
        factors = self._factors
        options = f"-t {seconds}"
        options += " -R" if way == "rx" else ""
        if factors.protocol == "udp":
            # As fast as it can: whoever sends is not to be what limits.
            options += f" -u -b 0 -l {factors.frame_bytes - HEADERS['udp']}"
        each, rest = divmod(factors.all_flows(), factors.queue_pairs)
        for pair in range(factors.queue_pairs):
            flows = each + (pair < rest)
            if flows:
                yield pair, f"{options} -P {flows}"


def _goodput(each: list[tuple[str, dict[str, Any]]]) -> dict[str, float]:
    """What of TCP's streams arrived: payload alone, as how it was put into frames is not told."""
    found = {"goodput_gbps": 0.0}
    for way, end in each:
        rate = float(end["sum_received"]["bits_per_second"]) / 1e9
        found[f"{way}_goodput_gbps"] = found.get(f"{way}_goodput_gbps", 0.0) + rate
        found["goodput_gbps"] += rate
    return found


def _datagrams(each: list[tuple[str, dict[str, Any]]], frame_bytes: int) -> dict[str, float]:
    """What of the datagrams arrived, and of those that were sent did not."""
    sent = came = 0.0
    rates = {"tx": 0.0, "rx": 0.0}
    for way, end in each:
        # Of bytes: what iperf3 calls lost has not those that came after the last it read.
        arrived = int(end["sum_received"]["bytes"]) / (frame_bytes - HEADERS["udp"])
        sent, came = sent + int(end["sum_sent"]["packets"]), came + arrived
        rates[way] += arrived / float(end["sum_received"]["seconds"])
    rate = sum(rates.values())
    return {
        "pps": rate,
        "tx_pps": rates["tx"],
        "rx_pps": rates["rx"],
        "gbps": rate * frame_bytes * 8e-9,
        "loss": 1 - came / sent if sent else 0.0,
    }


@contextmanager
def guest_work(bed: Bed, wire: Wire, nic: VhostUserNic | TapNic, factors: Factors) -> Iterator[Work]:
    """Boot a guest on a device; what is done in a trial."""
    mtu = factors.mtu if factors.mtu != Factors.mtu else None
    fitted = replace(
        nic,
        mtu=mtu,
        rx_queue_size=factors.ring_size,
        # More than the least only vhost-user back-ends may have there.
        tx_queue_size=factors.ring_size if isinstance(nic, VhostUserNic) else None,
        packed=factors.ring == "packed",
        options=tuple(_property(word) for word in factors.features.split()),
    )
    with booted(bed, wire, fitted) as guest:
        yield Pings(guest, wire) if factors.direction == "rtt" else Streams(guest, bed, wire, factors)


def _property(word: str) -> str:
    """A word of ``features`` as QEMU has it."""
    return f"{QEMU_PROPERTIES[word[1:]]}={'on' if word[0] == '+' else 'off'}"
