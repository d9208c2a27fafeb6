"""A network namespace of the test process's own: TAPs and addresses in it touch nothing outside."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyroute2 import IPRoute

from mpnet import namespace
from tests.real.asked import NETWORK

PARTS = (NETWORK,)

_TAP_FLAGS = {"no_pi": 1, "vnet_hdr": 1, "multi_queue": 1}


@contextmanager
def network_namespace() -> Iterator[None]:
    """Move this thread, and the threads and processes it starts from now on, into a fresh namespace with lo up.

    As root the thread returns to where it came from. Others get a user namespace too, which needs a process
    without further threads and cannot be left: there the process stays inside, which is as good for tests.
    What needs the outside network, such as packages, is to be fetched before.
    """
    rootless = os.geteuid() != 0
    with Path("/proc/thread-self/ns/net").open("rb") as outside:
        namespace.enter()
        try:
            yield
        finally:
            if not rootless:
                namespace.join(outside.fileno())


@contextmanager
def tap(name: str, *addresses: str, mtu: int = 1500) -> Iterator[str]:
    """Make a multiqueue TAP with vnet headers, up and with addresses, for as long as the block lasts.

    Args:
        name: the interface; given back for `with ... as`.
        addresses: IPv4 or IPv6 addresses with their prefix length.
        mtu: bytes.
    """
    with IPRoute() as ip:
        ip.link("add", ifname=name, kind="tuntap", mode="tap", ifr=_TAP_FLAGS)
        index = ip.link_lookup(ifname=name)[0]
        try:
            _quieten(name, ipv6=any(":" in address for address in addresses))
            ip.link("set", index=index, mtu=mtu, state="up")
            add_addresses(name, *addresses)
            yield name
        finally:
            ip.link("del", index=index)


def _quieten(name: str, *, ipv6: bool) -> None:
    """Keep the kernel from frames of its own: tests count theirs, and compare all that comes."""
    # Duplicate detection would make the IPv6 addresses unusable for a while.
    settings = {"accept_dad": 0, "router_solicitations": 0} if ipv6 else {"disable_ipv6": 1}
    for setting, value in settings.items():
        Path(f"/proc/sys/net/ipv6/conf/{name}/{setting}").write_text(str(value))


def add_addresses(name: str, *addresses: str) -> None:
    """Give an interface addresses with their prefix length."""
    with IPRoute() as ip:
        index = ip.link_lookup(ifname=name)[0]
        for address in addresses:
            ip.addr("add", index=index, address=address)
