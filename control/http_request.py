"""What headers of a scrape say: whom it was meant for, and whether it takes a compressed answer."""

import functools
import ipaddress
import socket
from collections.abc import Iterable


class ServedNames:
    """The names under which this host's metrics are asked for.

    A page in somebody's browser reaches a host that its own name resolves to (DNS rebinding), and then reads what
    only the browser's machine should. It is told by the Host header, which has the page's own name: so only names
    of this host are answered, and addresses, which no page can forge.

    Args:
        names: beside this host's own.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = {name.lower() for name in names} | {socket.gethostname().lower()}

    def has(self, header: str) -> bool:
        """Whether a Host header names this host; a client that sends none is no browser."""
        host = host_of(header).lower().rstrip(".")
        if not host or _is_address(host) or host == "localhost" or host.endswith(".localhost"):
            return True
        return host in self._names or host == _full_name()


def host_of(header: str) -> str:
    """The host in a Host header, without port and brackets."""
    host, colon, port = header.strip().rpartition(":")
    if not colon or not port.isdigit():  # the standard port, which a client leaves out
        host = header.strip()
    return host.removeprefix("[").removesuffix("]")


def takes_gzip(header: str) -> bool:
    """Whether an Accept-Encoding header takes gzip (RFC 9110, 12.5.3); a weight of 0 refuses it."""
    weights = {}
    for word in header.lower().split(","):
        coding, _, parameters = word.partition(";")
        weights[coding.strip()] = _weight(parameters)
    return weights.get("gzip", weights.get("*", 0.0)) > 0


def _weight(parameters: str) -> float:
    name, _, value = parameters.partition("=")
    if name.strip() != "q":
        return 1.0
    try:
        return float(value)
    except ValueError:
        return 0.0


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


@functools.cache
def _full_name() -> str:
    """This host's name with its domain; the domain name service may take seconds, once."""
    return socket.getfqdn().lower()
