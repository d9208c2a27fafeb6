"""UDP flows between a Linux guest and sockets of the host, compared datagram by datagram.

In the guest a script of Debian's perl (relay.pl) sends what it is told, and tells what comes, over a TCP
connection on the same device. Flow N has the same port at both ends.
"""

import random
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from mpnet.guest.linux.guest import LinuxGuest

FLOWS = 5

_FIRST_PORT = 4000
_RELAY = (Path(__file__).parent / "relay.pl").read_text()
_UDP_SEGMENT = 103
_SO_RCVBUFFORCE = 33
_RECEIVE_BYTES = 16 << 20
_BATCH = struct.Struct("!I")
_RECORD = struct.Struct("!HHI")
_HEADER_BYTES = {socket.AF_INET: 28, socket.AF_INET6: 48}
_MTU = 1500
_MAX_BYTES = 60_000
_MAX_SEGMENTS = 64
# With as many segments each, less than the 1000 packets that a TAP and a queueing discipline hold.
_MESSAGES = 12
# A limit for a hang, not a measure: TCG on a busy machine is slow.
_PATIENCE = 120.0

Received = list[list[bytes]]
"""Payloads of datagrams in the order of their arrival, by flow."""


@dataclass(frozen=True)
class Message:
    """What one system call sends.

    Attributes:
        flow: the socket it goes out of.
        gso_size: the payload of each datagram but the last, as UDP_SEGMENT asks for; 0 makes it one datagram,
            which may be longer than the MTU.
        payload: of all its datagrams.
    """

    flow: int
    gso_size: int
    payload: bytes

    @property
    def datagrams(self) -> list[bytes]:
        """The payloads of its datagrams."""
        size = self.gso_size or len(self.payload) or 1
        return [self.payload[at : at + size] for at in range(0, len(self.payload), size)] or [b""]


def batch(generator: random.Random, family: socket.AddressFamily) -> list[Message]:
    """Make messages of all flows in turn by chance, together few enough for every queue between the two ends.

    They are runs of equal datagrams, of a byte up to the MTU, with a shorter last one or without; single
    datagrams among them, also empty ones; and now and then one that goes in fragments.
    """
    longest = _MTU - _HEADER_BYTES[family]
    made = []
    for _ in range(_MESSAGES):
        size = generator.choice([1, 2, 100, 101, 999, longest - 1, longest])
        most = min(_MAX_SEGMENTS, _MAX_BYTES // size)
        kind = generator.choice(["run", "run", "odd run", "single", "single", "fragments"])
        length = {
            "run": size * generator.randint(2, most),
            "odd run": size * generator.randint(2, most - 1) + generator.randrange(size),
            "single": generator.choice([0, 1, size]),
            "fragments": generator.randint(longest + 1, 4 * longest),
        }[kind]
        flow = generator.randrange(FLOWS)
        made.append(Message(flow, size if "run" in kind else 0, generator.randbytes(length)))
    return made


def by_flow(messages: Iterable[Message]) -> Received:
    """What a receiver of the messages must get."""
    flows: Received = [[] for _ in range(FLOWS)]
    for message in messages:
        flows[message.flow] += message.datagrams
    return flows


def difference(sent: Received, received: Received) -> str:
    """Say where the first flow that is not what was sent differs from it; nothing where all are the same."""
    for flow, (expected, got) in enumerate(zip(sent, received, strict=True)):
        if expected == got:
            continue
        numbers = [index for index, (one, other) in enumerate(zip(expected, got, strict=False)) if one != other]
        first = numbers[0] if numbers else min(len(expected), len(got))
        lengths = [[len(data) for data in data_of[max(first - 2, 0) : first + 3]] for data_of in (expected, got)]
        return (
            f"flow {flow}: {len(got)} of {len(expected)} datagrams came, number {first} is the first that "
            f"differs; bytes of those around it: sent {lengths[0]}, came {lengths[1]}"
        )
    return ""


class Relay:
    """Both ends of all flows of one address family; made by `relay`."""

    def __init__(self, control: socket.socket, flows: Sequence[socket.socket]) -> None:
        self._control = control
        self._flows = flows

    def to_host(self, messages: Sequence[Message]) -> Received:
        """Let the guest send messages, and give what the host's sockets get."""
        records = b"".join(
            _RECORD.pack(message.flow, message.gso_size, len(message.payload)) + message.payload
            for message in messages
        )
        self._control.sendall(_BATCH.pack(len(records)) + records)
        return [
            list(self._of_flow(sock, len(expected)))
            for sock, expected in zip(self._flows, by_flow(messages), strict=True)
        ]

    def to_guest(self, messages: Sequence[Message]) -> Received:
        """Send messages out of the host's sockets, and give what the guest says it got."""
        for message in messages:
            sock = self._flows[message.flow]
            sock.setsockopt(socket.SOL_UDP, _UDP_SEGMENT, message.gso_size)
            sock.send(message.payload)
        flows: Received = [[] for _ in range(FLOWS)]
        for _ in range(sum(len(message.datagrams) for message in messages)):
            try:
                flow, _, size = _RECORD.unpack(self._taken(_RECORD.size))
            except TimeoutError:
                break
            flows[flow].append(self._taken(size))
        return flows

    @staticmethod
    def _of_flow(sock: socket.socket, count: int) -> Iterator[bytes]:
        """Receive datagrams until there are `count`, or none comes; then look whether there are more."""
        try:
            for _ in range(count):
                yield sock.recv(1 << 16)
            sock.setblocking(False)
            while True:
                yield sock.recv(1 << 16)
        except (TimeoutError, BlockingIOError):
            return
        finally:
            sock.settimeout(_PATIENCE)

    def _taken(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self._control.recv(size - len(data))
            assert part, "the guest's relay has ended"
            data += part
        return data


@contextmanager
def relay(guest: LinuxGuest, addresses: tuple[str, str]) -> Iterator[Relay]:
    """Open the flows between two addresses of one family, for as long as the block lasts.

    Args:
        guest: where the relay runs.
        addresses: the host's and the guest's on the device's link.
    """
    family = socket.AF_INET6 if ":" in addresses[0] else socket.AF_INET
    with ExitStack() as stack:
        flows = [stack.enter_context(socket.socket(family, socket.SOCK_DGRAM)) for _ in range(FLOWS)]
        for port, sock in enumerate(flows, _FIRST_PORT):
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BYTES)
            sock.settimeout(_PATIENCE)
            sock.bind((addresses[0], port))
            sock.connect((addresses[1], port))
        server = stack.enter_context(socket.create_server((addresses[0], 0), family=family))
        server.settimeout(_PATIENCE)
        ends = [socket.inet_pton(family, address).hex() for address in addresses]
        numbers = [str(number) for number in (_FIRST_PORT, FLOWS, server.getsockname()[1])]
        job = guest.spawn(["perl", "-e", _RELAY, str(int(family)), *ends, *numbers])
        control, _ = server.accept()
        with control:
            control.settimeout(_PATIENCE)
            yield Relay(control, flows)
        ended = job.wait(_PATIENCE)
        assert ended.returncode == 0, ended.stderr
