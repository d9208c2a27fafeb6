"""``mpnet capture``: the packets of a running device, as pcapng."""

import contextlib
import heapq
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path
from types import FrameType, MappingProxyType

import click

import mpnet
from mpnet.bpf import Filter, compile_filter
from mpnet.cli.decode import Decoder
from mpnet.cli.options import complete_device, connect, control_socket
from mpnet.errors import MpnetError
from mpnet.guest import debian
from mpnet.pcapng import Direction, Interface, Packet, PcapngWriter
from mpnet.ready import readable
from mpnet.segment.capture import MAX_SNAPLEN, Capture, Frame
from mpnet.virtio import net_header

_POLL_SECONDS = 0.02
_STDOUT = Path("-")
_NANOSECONDS = 1_000_000_000
_GSO = MappingProxyType(
    {
        net_header.GSO_TCPV4: "TCP over IPv4",
        net_header.GSO_TCPV6: "TCP over IPv6",
        net_header.GSO_UDP_L4: "UDP",
    }
)


@click.command()
@click.argument("device", shell_complete=complete_device)
@click.argument("expression", nargs=-1, metavar="[FILTER]...")
@click.option("--queue", type=click.IntRange(min=0), metavar="N", help="One queue pair; else all.")
@click.option(
    "--direction",
    type=click.Choice(["rx", "tx", "both"]),
    default="both",
    show_default=True,
    help="As the guest sees it: rx is what it receives.",
)
@click.option(
    "--snaplen",
    type=click.IntRange(1, MAX_SNAPLEN),
    default=MAX_SNAPLEN,
    metavar="BYTES",
    help="Keep so many bytes of each packet; else all.",
)
@click.option("-c", "--count", type=click.IntRange(min=1), metavar="N", help="End after N packets.")
@click.option(
    "--buffer",
    type=click.IntRange(1, 1024),
    default=4,
    show_default=True,
    metavar="MIB",
    help="Room for packets of each queue pair that are not written yet.",
)
@click.option(
    "-w",
    "--write",
    "target",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    metavar="FILE",
    help="Where to; - is standard output, as in: mpnet capture net0 -w - | wireshark -k -i -",
)
@click.option("--print", "as_text", is_flag=True, help="Print a line a packet, as tcpdump decodes it.")
@control_socket
def capture(
    device: str,
    expression: tuple[str, ...],
    *,
    queue: int | None,
    direction: str,
    snaplen: int,
    count: int | None,
    buffer: int,
    target: Path | None,
    as_text: bool,
    socket: Path | None,
) -> None:
    """Capture the packets of DEVICE as its guest sends and gets them, until Ctrl-C or the device's end.

    With a FILTER, as in "mpnet capture net0 --print tcp port 80", those alone that match; its syntax is that of
    tcpdump, which compiles it (man pcap-filter).

    Frames that leave segmentation to the device are there whole, with a comment; checksums that the guest leaves
    to it, or that the host left to the guest, are not finished. What finds no room is counted, not waited for.
    """
    if as_text == (target is not None):
        raise click.UsageError("give one of --write FILE and --print")
    wanted = compile_filter(debian.program("tcpdump"), " ".join(expression)) if expression else None
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(connect(socket, device))
        queues = client.call(
            "capture.start",
            device=device,
            queue=queue,
            direction=direction,
            snaplen=snaplen,
            lane_bytes=buffer << 20,
        )["queues"]
        # Only now: what cannot be captured must not cost a file that was there its content.
        source = Capture.attach(device, client.peer_uid)
        if target is None:
            decoder = stack.enter_context(Decoder(debian.program("tcpdump")))
            recorder = _Recorder(device, queues, source, decoder.fd, wanted, decoder)
        else:
            recorder = _Recorder(device, queues, source, _open(target, stack), wanted)
        _on_signals(recorder.stop)
        try:
            recorder.write(recorder.frames(client.fileno()), count)
        except BrokenPipeError:
            pass  # whoever read it has enough
        except OSError as error:
            raise MpnetError(
                f"cannot write to {_name(target or _STDOUT)}: {error.strerror}; "
                f"it ends after {recorder.packets} whole packets",
                "free some room, or capture less, as with --snaplen 128",
            ) from None
        click.echo(recorder.summary(), err=True)


def _open(target: Path, stack: contextlib.ExitStack) -> int:
    if str(target) != "-":
        try:
            return stack.enter_context(target.open("wb", buffering=0)).fileno()
        except OSError as error:
            raise MpnetError(f"cannot write {target}: {error.strerror}") from None
    if sys.stdout is None:
        raise MpnetError("standard output is closed", "pipe it into a program, or name a file")
    if sys.stdout.isatty():
        raise MpnetError("standard output is a terminal", "pipe it into a program, or name a file")
    return sys.stdout.fileno()


def _name(target: Path) -> str:
    return "standard output" if str(target) == "-" else str(target)


def _on_signals(stop: Callable[[], None]) -> None:
    """Call ``stop`` when a signal asks this process to end; a second one ends it, even in a write."""

    def handle(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        stop()

    # Not an exception: it could come in the middle of a block.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, handle)


@dataclass
class _Recorder:
    """Takes frames out of a capture and writes them.

    Attributes:
        device: whose they are.
        queues: queue pairs that are captured; each is an interface of the file, in this order.
        source: the capture.
        fd: where to.
        wanted: what packets are to match; None for all.
        decoder: what prints them, at the other end of ``fd``.
    """

    device: str
    queues: list[int]
    source: Capture
    fd: int
    wanted: Filter | None = None
    decoder: Decoder | None = None
    started_ns: int = field(default_factory=time.time_ns)

    def __post_init__(self) -> None:
        interfaces = [
            Interface(f"{self.device}.{queue}", f"queue pair {queue} of {self.device}", self.source.snaplen)
            for queue in self.queues
        ]
        self._stopping = False
        self._numbers = {queue: number for number, queue in enumerate(self.queues)}
        self._writer = PcapngWriter(self.fd, f"mpnet {mpnet.__version__}", interfaces)

    @property
    def packets(self) -> int:
        """Packets written so far."""
        return self._writer.packets

    def available(self) -> Iterator[Frame]:
        """Frames that are there now, oldest first."""
        lanes = [self.source.lanes[queue].take() for queue in self.queues]
        yield from heapq.merge(*lanes, key=lambda frame: frame.time_ns)

    def frames(self, connection: int) -> Iterator[Frame]:
        """Frames as they come, until ``stop`` or the end of control, at the other end of ``connection``."""
        while not self._stopping:
            yield from self.available()
            self._writer.flush()
            ended = readable(connection, seconds=_POLL_SECONDS)
            self._stopping |= bool(ended)
        yield from self.available()

    def stop(self) -> None:
        """Have ``frames`` come to its end, after what is there by then."""
        self._stopping = True

    def write(self, frames: Iterator[Frame], count: int | None) -> None:
        """Write frames, ``count`` of them at most, and then each interface's statistics.

        Raises:
            OSError: no more can be written.
        """
        wanted = self.wanted
        matching = (frame for frame in frames if wanted is None or wanted.matches(frame.data, frame.length))
        for frame in islice(matching, count):
            if self.decoder is not None:
                self.decoder.announce(self._head(frame))
            self._writer.packet(self._packet(frame))
        times = (self.started_ns, time.time_ns())
        for queue, number in self._numbers.items():
            lane = self.source.lanes[queue]
            self._writer.statistics(number, times, lane.kept + lane.dropped, lane.dropped)
        self._writer.flush()

    def _head(self, frame: Frame) -> str:
        """When, where and which way, for people."""
        moment = datetime.fromtimestamp(frame.time_ns // _NANOSECONDS).astimezone()
        queue, tx = divmod(frame.ring, 2)
        way = "tx" if tx else "rx"
        return f"{moment:%T}.{frame.time_ns % _NANOSECONDS // 1000:06} {self.device}.{queue} {way}"

    def summary(self) -> str:
        """Tell people what was written, and what was not."""
        dropped = sum(self.source.lanes[queue].dropped for queue in self.queues)
        done = "printed" if self.decoder else "written"
        return f"{self.packets} packets {done}, {dropped} dropped for want of room"

    def _packet(self, frame: Frame) -> Packet:
        queue, tx = divmod(frame.ring, 2)
        return Packet(
            self._numbers[queue],
            frame.time_ns,
            Direction.OUTBOUND if tx else Direction.INBOUND,
            frame.data,
            frame.length,
            _comment(frame.header),
        )


def _comment(header: bytes) -> str:
    """Say what a virtio-net header asks for that the packet does not show."""
    gso = header[net_header.GSO_TYPE] & ~net_header.GSO_ECN
    if gso == net_header.GSO_NONE:
        return ""
    size = int.from_bytes(header[net_header.GSO_SIZE : net_header.GSO_SIZE + 2], "little")
    return f"segmentation offload: {_GSO.get(gso, 'unknown')}, {size} bytes of payload a segment"
