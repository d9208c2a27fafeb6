"""Where systems are measured: TAPs in the bench's own network namespace, one processor for each side."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pyroute2 import IPRoute

QUEUE_LENGTH = 8192
"""Frames that each TAP's queue takes."""
GUEST_MAC = bytes.fromhex("026d70000001")
NOWHERE = "198.19.0.1"
"""An address the host has a black hole for: frames to it are dropped once they are routed."""
_NOWHERE_NET = "198.19.0.0/16"
PREFIX_BITS = 24
_RECEIVED_BYTES, _SENT_PACKETS = 0, 9
"""Places in an interface's line of /proc/net/dev."""
_FLAGS = {"no_pi": 1, "vnet_hdr": 1, "multi_queue": 0}


@dataclass(frozen=True, slots=True)
class Wire:
    """A TAP with the host's kernel behind it. Addresses are of RFC 2544's benchmark network.

    Attributes:
        name: of the interface.
        index: of the interface.
        mac: the host's, 6 bytes.
        host: the host's address on it.
        guest: an address on it that the host believes to be at ``GUEST_MAC``.
    """

    name: str
    index: int
    mac: bytes
    host: str
    guest: str

    def received(self) -> int:
        """Bytes of frames that the host has taken from the TAP so far."""
        return self._counters()[_RECEIVED_BYTES]

    def taken(self) -> int:
        """Frames from the host that the device has taken from the TAP so far."""
        return self._counters()[_SENT_PACKETS]

    def _counters(self) -> list[int]:
        for line in Path("/proc/thread-self/net/dev").read_text().splitlines():
            name, _, counters = line.partition(":")
            if name.strip() == self.name:
                return [int(word) for word in counters.split()]
        raise LookupError(self.name)


NO_WIRE = Wire("", 0, bytes.fromhex("026d70000002"), "198.18.0.1", "198.18.0.2")
"""Takes the place of a TAP's where a device has none: addresses for frames that no kernel sees."""


@dataclass
class Bed:
    """All that systems share; the calling thread is in a network namespace of its own, and pinned.

    Args:
        folder: for sockets and logs, with a short path.
        driver_cpus: where the driver, and what the host sends, is run; the second for a second queue pair.
        device_cpus: where the device is run, likewise. With fewer than four processors some are the same.
    """

    folder: Path
    driver_cpus: tuple[int, ...]
    device_cpus: tuple[int, ...]
    _wires: int = 0

    @property
    def driver_cpu(self) -> int:
        """Of the first queue pair's driver."""
        return self.driver_cpus[0]

    @property
    def device_cpu(self) -> int:
        """Of the first queue pair's device."""
        return self.device_cpus[0]

    @property
    def cpus(self) -> set[int]:
        """All of them."""
        return {*self.driver_cpus, *self.device_cpus}

    @classmethod
    def make(cls, folder: Path) -> "Bed":
        """Take the last processors this process may use, up to four; pin this thread."""
        cpus = sorted(os.sched_getaffinity(0))[-4:]
        if len(cpus) == 4:
            bed = cls(folder, (cpus[0], cpus[1]), (cpus[2], cpus[3]))
        else:
            bed = cls(folder, (cpus[0], cpus[0]), (cpus[-1], cpus[0]))
        bed.lay()
        return bed

    def lay(self) -> None:
        """Pin this thread, and have the host drop what goes nowhere."""
        os.sched_setaffinity(0, {self.driver_cpu})
        with IPRoute() as ip:
            # Again where several experiments are made in one namespace, one after the other.
            ip.route("replace", dst=_NOWHERE_NET, type="blackhole")

    def path(self, name: str) -> Path:
        """A path for a socket or a log that nobody else has."""
        return self.folder / name

    @contextmanager
    def tap(self, name: str, *, queues: int = 1, mtu: int = 1500) -> Iterator[Wire]:
        """Make a TAP with vnet headers, and several queues where asked for, for as long as the block lasts."""
        with IPRoute() as ip:
            flags = _FLAGS | {"multi_queue": int(queues > 1)}
            ip.link("add", ifname=name, kind="tuntap", mode="tap", ifr=flags)
            ip.link("set", index=ip.link_lookup(ifname=name)[0], mtu=mtu)
        try:
            yield self.wire(name)
        finally:
            with IPRoute() as ip:
                ip.link("del", index=ip.link_lookup(ifname=name)[0])

    def wire(self, name: str) -> Wire:
        """Set a TAP up, give it addresses and keep it quiet."""
        self._wires += 1
        net = f"198.18.{self._wires}"
        with suppress(OSError):  # only quieter without: no router is looked for on the TAP
            Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
        with IPRoute() as ip:
            index = int(ip.link_lookup(ifname=name)[0])
            ip.link("set", index=index, state="up")
            ip.addr("add", index=index, address=f"{net}.1", prefixlen=PREFIX_BITS)
            mac = GUEST_MAC.hex(":")
            ip.neigh("replace", dst=f"{net}.2", lladdr=mac, ifindex=index, state="permanent")
            link = next(iter(ip.link("get", index=index)))
            ip.link("set", index=index, txqlen=QUEUE_LENGTH)
            address = bytes.fromhex(link.get_attr("IFLA_ADDRESS").replace(":", ""))
        return Wire(name, index, address, f"{net}.1", f"{net}.2")
