"""Traffic between the tests and a Linux guest: one set of helpers for every device a guest can have.

All take the guest and the host's address on the device's link; the guest always connects to the host, so that
nothing has to be waited for inside it.
"""

import hashlib
import json
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from mpnet.guest import debian
from mpnet.guest.linux.guest import LinuxGuest
from tests.real.asked import LINUX_GUEST

PARTS = LINUX_GUEST

_CHUNK = 1 << 16
# A limit for a hang, not a measure: TCG on a busy machine is slow.
_PATIENCE = 240.0
_SOCKET_BYTES = 200 << 10
UNREAD_BYTES = 1 << 20
"""What a stream of iperf3 may leave in its two sockets, whose buffers are twice _SOCKET_BYTES each: when the
client has had enough, the receiving side closes without reading on."""


@dataclass(frozen=True)
class Iperf:
    """What iperf3's client in the guest counted.

    Attributes:
        sent: bytes its sending side put on the connection(s).
        received: bytes the receiving side took from them, UNREAD_BYTES a stream fewer at worst; TCP only, else 0.
        lost: UDP datagrams lost.
        streams: parallel connections.
    """

    sent: int
    received: int
    lost: int
    streams: int


def iperf3(
    guest: LinuxGuest,
    host: str,
    amount: str,
    *,
    streams: int = 4,
    reverse: bool = False,
    udp: bool = False,
    cpu: int | None = None,
) -> Iperf:
    """Run iperf3 between the guest and the host.

    Args:
        guest: the client's side.
        host: address of the server's side.
        amount: bytes over all streams, as iperf3 writes it: "16M".
        streams: parallel connections.
        reverse: the host sends, that is, the guest receives.
        udp: datagrams instead of TCP.
        cpu: the guest's processor to stay on. The driver of N queue pairs on N processors transmits on the queue
            of the processor it runs on, so this picks the queue; the client is a single thread.
    """
    with _iperf3_server(host) as port:
        command = ["taskset", f"{1 << cpu:x}"] if cpu is not None else []
        command += ["iperf3", "-c", host, "-p", str(port), "-n", amount, "-P", str(streams), "--json"]
        command += ["-w", str(_SOCKET_BYTES)]
        command += ["-R"] if reverse else []
        # Datagrams as fast as the sender can would only measure how many the receiver drops.
        command += ["-u", "-b", "20M"] if udp else []
        report = json.loads(guest.check(command, _PATIENCE))
    end: dict[str, Any] = report["end"]
    if udp:
        total = end["sum"]
        return Iperf(total["bytes"], 0, total["lost_packets"], len(end["streams"]))
    return Iperf(end["sum_sent"]["bytes"], end["sum_received"]["bytes"], 0, len(end["streams"]))


@contextmanager
def _iperf3_server(host: str) -> Iterator[int]:
    """Serve one iperf3 client; gives the port once it listens."""
    with socket.create_server((host, 0), family=_family(host)) as probe:
        port: int = probe.getsockname()[1]
    command = [str(debian.program("iperf3")), "-s", "-1", "-B", host, "-p", str(port), "--forceflush"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            assert server.stdout is not None
            for line in server.stdout:
                if "listening" in line:
                    break
            # What it prints later is little and fits the pipe.
            yield port
        finally:
            server.terminate()


def send_file(guest: LinuxGuest, host: str, data: bytes, *, flows: int = 4) -> None:
    """Send data from host to guest over parallel TCP flows and assert that every part's SHA-256 is the same."""
    size = -(-len(data) // flows)
    parts = [data[start : start + size] for start in range(0, len(data), size)]
    received = _exchange(guest, host, [(part, "nc {address} {port} </dev/null | sha256sum") for part in parts])
    assert [digest for digest, _ in received] == [hashlib.sha256(part).hexdigest() for part in parts]


def receive_file(guest: LinuxGuest, host: str, size: int, *, flows: int = 4) -> None:
    """Send `size` random bytes from guest to host over parallel flows and assert equal SHA-256 of every part."""
    # The digest is printed when the connection has taken all: tee feeds both ends of it.
    script = (
        f"f=$(mktemp) && head -c {size // flows} /dev/urandom >$f && sha256sum <$f"
        " && nc {address} {port} <$f && rm $f"
    )
    sent = _exchange(guest, host, [(b"", script)] * flows)
    assert [digest for digest, _ in sent] == [digest for _, digest in sent]
    assert len({digest for digest, _ in sent}) == flows, "random parts differ"


def receive_in_place(guest: LinuxGuest, host: str, path: str) -> None:
    """Send a file from guest to host out of the very pages it lies in and assert equal SHA-256.

    busybox cat uses sendfile(2): of a file in a tmpfs no page is copied on the way to the device.
    """
    script = f"sha256sum <{path} && nc {{address}} {{port}} -e cat {path}"
    [(sent, received)] = _exchange(guest, host, [(b"", script)])
    assert sent == received


def _exchange(guest: LinuxGuest, host: str, flows: list[tuple[bytes, str]]) -> list[tuple[str, str]]:
    """Connect one guest command per flow, send each its bytes and take what it sends.

    Args:
        guest: where the commands run.
        host: address to listen on.
        flows: bytes for the guest, and the command, with {address} and {port} to connect to.

    Returns:
        For each flow the digest the guest printed, and that of what the host received.
    """
    with ExitStack() as stack:
        peers = [stack.enter_context(_Peer(host, data)) for data, _ in flows]
        jobs = [
            guest.spawn(command.format(address=host, port=peer.port))
            for peer, (_, command) in zip(peers, flows, strict=True)
        ]
        ended = [job.wait(_PATIENCE) for job in jobs]
        for done in ended:
            assert done.returncode == 0, done
        return [(done.stdout.split()[0], peer.digest()) for done, peer in zip(ended, peers, strict=True)]


class _Peer:
    """The host's end of one flow: sends its bytes, hashes what comes, on a thread."""

    def __init__(self, host: str, data: bytes) -> None:
        self._listener = socket.create_server((host, 0), family=_family(host))
        self._listener.settimeout(_PATIENCE)
        self.port: int = self._listener.getsockname()[1]
        self._data = data
        self._hash = hashlib.sha256()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> "_Peer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Closing alone would not wake a thread that still waits for a guest whose command failed.
        self._listener.shutdown(socket.SHUT_RD)
        self._thread.join()
        self._listener.close()

    def digest(self) -> str:
        """The hash of all that was received, once the guest has closed."""
        self._thread.join()
        return self._hash.hexdigest()

    def _serve(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        with connection:
            connection.settimeout(_PATIENCE)
            if self._data:
                connection.sendall(self._data)
                # Only after data of ours: nc ends on it, with what it still has to send.
                connection.shutdown(socket.SHUT_WR)
            while chunk := connection.recv(_CHUNK):
                self._hash.update(chunk)


def ping(guest: LinuxGuest, host: str, *, count: int = 3, size: int = 56) -> None:
    """Assert that the host answers all of the guest's echo requests of `size` bytes."""
    # The first one may wait for a neighbour's address, and the machine be slow.
    said = guest.check(f"ping -c {count} -i 0.1 -W 30 -s {size} {host}")
    assert re.search(rf"{count} packets received, 0% packet loss", said), said


def fragments(guest: LinuxGuest) -> int:
    """How many fragments of IPv4 packets the guest has sent and received."""
    names, values = guest.check("grep ^Ip: /proc/net/snmp").splitlines()
    counted = dict(zip(names.split()[1:], map(int, values.split()[1:]), strict=True))
    return int(counted["FragCreates"] + counted["ReasmReqds"])


def ethtool_statistics(guest: LinuxGuest, interface: str = "eth0") -> dict[str, int]:
    """Give the counters of `ethtool -S`: "rx_queue_0_packets" and their like."""
    text = guest.check(["ethtool", "-S", interface])
    return {name: int(value) for name, value in re.findall(r"^\s*(\w+): (\d+)$", text, re.MULTILINE)}


def combined(guest: LinuxGuest, interface: str = "eth0") -> tuple[int, int]:
    """Give the queue pairs the driver could use and those it does use, from `ethtool -l`."""
    most, now = re.findall(r"Combined:\s+(\d+)", guest.check(["ethtool", "-l", interface]))
    return int(most), int(now)


def set_combined(guest: LinuxGuest, queue_pairs: int, interface: str = "eth0") -> None:
    """Make the driver use this many queue pairs."""
    guest.check(["ethtool", "-L", interface, "combined", str(queue_pairs)])


def rebind(guest: LinuxGuest) -> None:
    """Unbind the driver of eth0 from its device, bind it again and set the interface up as after boot."""
    guest.check(
        "device=$(basename $(readlink -f /sys/class/net/eth0/device)) && cd /sys/bus/virtio/drivers/virtio_net"
        " && echo $device >unbind && [ ! -e /sys/class/net/eth0 ] && echo $device >bind && sh /network.sh"
    )


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
