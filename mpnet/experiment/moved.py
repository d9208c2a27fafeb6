"""What traffic has moved, and the figures that come of it."""

from dataclasses import dataclass, replace

from mpnet.bench.bed import Wire
from mpnet.bench.case import Case
from mpnet.bench.generator import Generator


@dataclass(frozen=True, slots=True)
class Moved:
    """Totals so far.

    Attributes:
        sent: frames of the guest that the device was done with.
        arrived: bytes that the host took from the TAP.
        offered: bytes of payload that the host sent to the guest.
        received: bytes of payload that the guest had.
    """

    sent: int
    arrived: int
    offered: int
    received: int

    def since(self, before: "Moved") -> "Moved":
        """What has come to it."""
        return Moved(
            self.sent - before.sent,
            self.arrived - before.arrived,
            self.offered - before.offered,
            self.received - before.received,
        )


def arrived(wire: Wire) -> int:
    """Bytes that the host has taken so far; none where there is no TAP."""
    return wire.received() if wire.name else 0


def offered(sender: Generator | None) -> int:
    """Bytes of payload that the host has sent so far, those that were lost too; none where it sends nothing."""
    return int(sender.state[0].sent + sender.state[0].lost) if sender is not None else 0


def figures(moved: Moved, seconds: float, case: Case, wire: Wire, *, receives: bool) -> dict[str, float]:
    """Rates, both ways in datagrams: a segmentation offload counts as the segments it is.

    Args:
        moved: in that time.
        seconds: it took.
        case: says what was sent.
        wire: the device's TAP, if it has one.
        receives: the guest took what came.
    """
    stream = replace(case, kind="tx").stream(wire)
    frame = len(stream.frame())
    # Where frames are coalesced the host takes fewer headers than were sent, but all of the payload.
    least = stream.segments * stream.segment_bytes
    share = min(1.0, moved.arrived / (moved.sent * least)) if moved.sent else 0.0
    sent = moved.sent * stream.segments
    given = moved.offered / stream.segment_bytes
    if not wire.name:
        # No kernel counts: what the device has returned it has taken, and an echo is to send all of it.
        share, given = 1.0, sent if receives else 0
    received = min(moved.received / stream.segment_bytes, given)
    delivered = share * sent + received
    return {
        "pps": delivered / seconds,
        "tx_pps": share * sent / seconds,
        "rx_pps": received / seconds,
        "gbps": delivered * frame * 8e-9 / stream.segments / seconds,
        "loss": 1 - delivered / max(1, sent + given),
    }
